//go:build !purego

#include "textflag.h"

// Offsets in keys, see gcm_amd64.go.
#define LAST 224
#define ROUNDS 240
#define POWERS 256

DATA bswap<>+0(SB)/8, $0x08090a0b0c0d0e0f
DATA bswap<>+8(SB)/8, $0x0001020304050607
GLOBL bswap<>(SB), RODATA|NOPTR, $16

// What reduces modulo the polynomial of GHASH, its bits reversed.
DATA poly<>+0(SB)/8, $0x0000000000000001
DATA poly<>+8(SB)/8, $0xc200000000000000
GLOBL poly<>(SB), RODATA|NOPTR, $16

// Counters of four blocks, and steps of 4, 8, 12 and 16 in all of them.
DATA count<>+0(SB)/8, $1
DATA count<>+8(SB)/8, $0
DATA count<>+16(SB)/8, $2
DATA count<>+24(SB)/8, $0
DATA count<>+32(SB)/8, $3
DATA count<>+40(SB)/8, $0
DATA count<>+48(SB)/8, $4
DATA count<>+56(SB)/8, $0
GLOBL count<>(SB), RODATA|NOPTR, $64

DATA step<>+0(SB)/8, $4
DATA step<>+8(SB)/8, $0
DATA step<>+16(SB)/8, $8
DATA step<>+24(SB)/8, $0
DATA step<>+32(SB)/8, $12
DATA step<>+40(SB)/8, $0
DATA step<>+48(SB)/8, $16
DATA step<>+56(SB)/8, $0
GLOBL step<>(SB), RODATA|NOPTR, $64

// One round of AES for the sixteen blocks in Z0 to Z3.
#define ROUND(K) \
	VAESENC K, Z0, Z0 \
	VAESENC K, Z1, Z1 \
	VAESENC K, Z2, Z2 \
	VAESENC K, Z3, Z3

// KEYSTREAM makes sixteen blocks of keystream in Z0 to Z3 and moves the counter
// in Z14 on. It uses Z8 to Z11. LABEL is where AES-128 goes on.
#define KEYSTREAM(LABEL) \
	VBROADCASTI32X4 step<>+0(SB), Z8   \
	VBROADCASTI32X4 step<>+16(SB), Z9  \
	VBROADCASTI32X4 step<>+32(SB), Z10 \
	VBROADCASTI32X4 step<>+48(SB), Z11 \
	VPADDD          Z8, Z14, Z1        \
	VPADDD          Z9, Z14, Z2        \
	VPADDD          Z10, Z14, Z3       \
	VPSHUFB         Z31, Z14, Z0       \
	VPADDD          Z11, Z14, Z14      \
	VPSHUFB         Z31, Z1, Z1        \
	VPSHUFB         Z31, Z2, Z2        \
	VPSHUFB         Z31, Z3, Z3        \
	VPXORQ          Z16, Z0, Z0        \
	VPXORQ          Z16, Z1, Z1        \
	VPXORQ          Z16, Z2, Z2        \
	VPXORQ          Z16, Z3, Z3        \
	ROUND(Z17)                         \
	ROUND(Z18)                         \
	ROUND(Z19)                         \
	ROUND(Z20)                         \
	ROUND(Z21)                         \
	ROUND(Z22)                         \
	ROUND(Z23)                         \
	ROUND(Z24)                         \
	ROUND(Z25)                         \
	CMPQ            BX, $10            \
	JEQ             LABEL              \
	ROUND(Z26)                         \
	ROUND(Z27)                         \
	ROUND(Z28)                         \
	ROUND(Z29)                         \
LABEL:                                 \
	VAESENCLAST     Z30, Z0, Z0        \
	VAESENCLAST     Z30, Z1, Z1        \
	VAESENCLAST     Z30, Z2, Z2        \
	VAESENCLAST     Z30, Z3, Z3

// MUL adds the products of the blocks in D and the powers in P to the low,
// middle and high parts in Z8, Z9 and Z10. It uses Z11.
#define MUL(P, D) \
	VPCLMULQDQ $0x00, P, D, Z11 \
	VPXORQ     Z11, Z8, Z8      \
	VPCLMULQDQ $0x01, P, D, Z11 \
	VPXORQ     Z11, Z9, Z9      \
	VPCLMULQDQ $0x10, P, D, Z11 \
	VPXORQ     Z11, Z9, Z9      \
	VPCLMULQDQ $0x11, P, D, Z11 \
	VPXORQ     Z11, Z10, Z10

// MULFIRST is MUL that begins with nothing.
#define MULFIRST(P, D) \
	VPCLMULQDQ $0x00, P, D, Z8  \
	VPCLMULQDQ $0x01, P, D, Z9  \
	VPCLMULQDQ $0x10, P, D, Z11 \
	VPXORQ     Z11, Z9, Z9      \
	VPCLMULQDQ $0x11, P, D, Z10

// REDUCE reduces the products in Z8 to Z10 and adds the four lanes up in X12.
#define REDUCE \
	VPCLMULQDQ    $0x01, Z8, Z15, Z11 \
	VPSHUFD       $0x4e, Z8, Z8       \
	VPTERNLOGQ    $0x96, Z11, Z8, Z9  \
	VPCLMULQDQ    $0x01, Z9, Z15, Z11 \
	VPSHUFD       $0x4e, Z9, Z9       \
	VPTERNLOGQ    $0x96, Z11, Z9, Z10 \
	VEXTRACTI64X4 $1, Z10, Y11        \
	VPXOR         Y11, Y10, Y10       \
	VEXTRACTI128  $1, Y10, X11        \
	VPXOR         X11, X10, X12

// HASH takes the sixteen blocks in Z4 to Z7 into the hash in X12, with powers
// from R13 on. It uses Z0 to Z3 and Z8 to Z11.
#define HASH \
	VPSHUFB   Z31, Z4, Z4   \
	VPSHUFB   Z31, Z5, Z5   \
	VPSHUFB   Z31, Z6, Z6   \
	VPSHUFB   Z31, Z7, Z7   \
	VPXORQ    Z12, Z4, Z4   \
	VMOVDQU64 0(R13), Z0    \
	VMOVDQU64 64(R13), Z1   \
	VMOVDQU64 128(R13), Z2  \
	VMOVDQU64 192(R13), Z3  \
	MULFIRST(Z1, Z5)        \
	MUL(Z2, Z6)             \
	MUL(Z3, Z7)             \
	MUL(Z0, Z4)             \
	REDUCE

// MASK sets K to the first R, less than 256, of 64 bytes, and takes what it can of
// 64 off R. It uses DX, and R14 and R15, which are -1 and 0.
#define MASK(R, K) \
	BZHIQ   R, R14, DX \
	KMOVQ   DX, K      \
	SUBQ    $64, R     \
	CMOVQLT R15, R

// func crypt(k *keys, dst, src *byte, n int, aad *byte, aadLen int, nonce *byte, tag *byte, open int)
TEXT ·crypt(SB), NOSPLIT, $0-72
	MOVQ k+0(FP), AX
	MOVQ dst+8(FP), DI
	MOVQ src+16(FP), SI
	MOVQ n+24(FP), CX
	MOVQ aad+32(FP), R8
	MOVQ aadLen+40(FP), R9
	MOVQ nonce+48(FP), R10
	MOVQ tag+56(FP), R11
	MOVQ open+64(FP), R12
	MOVQ ROUNDS(AX), BX
	MOVQ $-1, R14
	XORQ R15, R15

	VBROADCASTI32X4 bswap<>(SB), Z31
	VBROADCASTI32X4 poly<>(SB), Z15
	VBROADCASTI32X4 0(AX), Z16
	VBROADCASTI32X4 16(AX), Z17
	VBROADCASTI32X4 32(AX), Z18
	VBROADCASTI32X4 48(AX), Z19
	VBROADCASTI32X4 64(AX), Z20
	VBROADCASTI32X4 80(AX), Z21
	VBROADCASTI32X4 96(AX), Z22
	VBROADCASTI32X4 112(AX), Z23
	VBROADCASTI32X4 128(AX), Z24
	VBROADCASTI32X4 144(AX), Z25
	VBROADCASTI32X4 160(AX), Z26
	VBROADCASTI32X4 176(AX), Z27
	VBROADCASTI32X4 192(AX), Z28
	VBROADCASTI32X4 208(AX), Z29
	VBROADCASTI32X4 LAST(AX), Z30

	// The first counter block is the nonce and a 1. What it encrypts to goes into
	// the tag.
	VMOVQ      0(R10), X13
	MOVL       8(R10), DX
	VPINSRD    $2, DX, X13, X13
	MOVL       $0x01000000, DX
	VPINSRD    $3, DX, X13, X13
	VPSHUFB    X31, X13, X14
	VPXOR      X12, X12, X12
	VSHUFI64X2 $0, Z14, Z14, Z14
	VPADDD     count<>(SB), Z14, Z14
	VPXORQ     X16, X13, X13
	VAESENC    X17, X13, X13
	VAESENC    X18, X13, X13
	VAESENC    X19, X13, X13
	VAESENC    X20, X13, X13
	VAESENC    X21, X13, X13
	VAESENC    X22, X13, X13
	VAESENC    X23, X13, X13
	VAESENC    X24, X13, X13
	VAESENC    X25, X13, X13
	CMPQ       BX, $10
	JEQ        first
	VAESENC    X26, X13, X13
	VAESENC    X27, X13, X13
	VAESENC    X28, X13, X13
	VAESENC    X29, X13, X13

first:
	VAESENCLAST X30, X13, X13

	// Additional data, four blocks at a time, with zeros behind the last.
aad:
	TESTQ      R9, R9
	JEQ        blocks
	MOVQ       $64, DX
	CMPQ       R9, DX
	CMOVQLT    R9, DX
	MOVQ       DX, R10
	ADDQ       $15, DX
	ANDQ       $-16, DX
	LEAQ       (POWERS+256)(AX), R13
	SUBQ       DX, R13
	SUBQ       R10, R9
	MASK(R10, K1)
	VMOVDQU8.Z (R8), K1, Z4
	ADDQ       $64, R8
	VMOVDQU64  0(R13), Z0
	VPSHUFB    Z31, Z4, Z4
	VPXORQ     Z12, Z4, Z4
	MULFIRST(Z0, Z4)
	REDUCE
	JMP        aad

blocks:
	LEAQ POWERS(AX), R13
	CMPQ CX, $256
	JLT  tail

loop:
	KEYSTREAM(middle)
	VMOVDQU64 0(SI), Z4
	VMOVDQU64 64(SI), Z5
	VMOVDQU64 128(SI), Z6
	VMOVDQU64 192(SI), Z7
	VPXORQ    Z4, Z0, Z0
	VPXORQ    Z5, Z1, Z1
	VPXORQ    Z6, Z2, Z2
	VPXORQ    Z7, Z3, Z3
	VMOVDQU64 Z0, 0(DI)
	VMOVDQU64 Z1, 64(DI)
	VMOVDQU64 Z2, 128(DI)
	VMOVDQU64 Z3, 192(DI)
	TESTQ     R12, R12
	JNE       hash
	VMOVDQA64 Z0, Z4
	VMOVDQA64 Z1, Z5
	VMOVDQA64 Z2, Z6
	VMOVDQA64 Z3, Z7

hash:
	HASH
	ADDQ $256, SI
	ADDQ $256, DI
	SUBQ $256, CX
	CMPQ CX, $256
	JGE  loop

tail:
	TESTQ CX, CX
	JEQ   end

	// So many blocks get the lowest powers; behind them there are zeros.
	LEAQ       15(CX), DX
	ANDQ       $-16, DX
	LEAQ       (POWERS+256)(AX), R13
	SUBQ       DX, R13
	MASK(CX, K1)
	MASK(CX, K2)
	MASK(CX, K3)
	MASK(CX, K4)
	KEYSTREAM(late)
	VMOVDQU8.Z 0(SI), K1, Z4
	VMOVDQU8.Z 64(SI), K2, Z5
	VMOVDQU8.Z 128(SI), K3, Z6
	VMOVDQU8.Z 192(SI), K4, Z7
	VPXORQ     Z4, Z0, Z0
	VPXORQ     Z5, Z1, Z1
	VPXORQ     Z6, Z2, Z2
	VPXORQ     Z7, Z3, Z3
	VMOVDQU8   Z0, K1, 0(DI)
	VMOVDQU8   Z1, K2, 64(DI)
	VMOVDQU8   Z2, K3, 128(DI)
	VMOVDQU8   Z3, K4, 192(DI)
	TESTQ      R12, R12
	JNE        hashTail
	VMOVDQU8.Z Z0, K1, Z4
	VMOVDQU8.Z Z1, K2, Z5
	VMOVDQU8.Z Z2, K3, Z6
	VMOVDQU8.Z Z3, K4, Z7

hashTail:
	HASH

end:
	// Both lengths in bits.
	MOVQ        n+24(FP), CX
	MOVQ        aadLen+40(FP), R9
	SHLQ        $3, CX
	SHLQ        $3, R9
	VMOVQ       CX, X4
	VPINSRQ     $1, R9, X4, X4
	VPXOR       X12, X4, X4
	VMOVDQU     (POWERS+240)(AX), X0
	MULFIRST(Z0, Z4)
	REDUCE
	VPSHUFB     X31, X12, X12
	VPXOR       X13, X12, X12
	VMOVDQU     X12, (R11)
	VZEROUPPER
	RET

// func subWord(w uint32) uint32
TEXT ·subWord(SB), NOSPLIT, $0-12
	MOVL        w+0(FP), AX
	VMOVD       AX, X0
	VPSHUFD     $0, X0, X0
	VPXOR       X1, X1, X1
	VAESENCLAST X1, X0, X0
	VMOVD       X0, AX
	MOVL        AX, ret+8(FP)
	RET

// func encrypt(k *keys, dst, src *byte)
TEXT ·encrypt(SB), NOSPLIT, $0-24
	MOVQ    k+0(FP), AX
	MOVQ    dst+8(FP), DI
	MOVQ    src+16(FP), SI
	VMOVDQU (SI), X0
	VPXOR   0(AX), X0, X0
	MOVQ    AX, DX
	MOVQ    ROUNDS(AX), CX
	DECQ    CX

round:
	ADDQ    $16, DX
	VAESENC (DX), X0, X0
	DECQ    CX
	JNE     round
	VAESENCLAST LAST(AX), X0, X0
	VMOVDQU X0, (DI)
	RET

// func mul(dst, a, b *[16]byte)
TEXT ·mul(SB), NOSPLIT, $0-24
	MOVQ            dst+0(FP), DI
	MOVQ            a+8(FP), SI
	MOVQ            b+16(FP), DX
	VBROADCASTI32X4 poly<>(SB), Z15
	VMOVDQU         (SI), X4
	VMOVDQU         (DX), X0
	MULFIRST(Z0, Z4)
	REDUCE
	VMOVDQU         X12, (DI)
	VZEROUPPER
	RET
