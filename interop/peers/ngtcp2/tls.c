// TLS configuration.
#include "peer.h"

#include <openssl/err.h>
#include <string.h>

static void fail(const char *what) {
  ERR_print_errors_fp(stderr);
  die(what, "OpenSSL refused");
}

static SSL_CTX *new_context(const SSL_METHOD *method) {
  SSL_CTX *ctx = SSL_CTX_new(method);
  if (!ctx || !SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION))
    fail("TLS 1.3");
  if (opt.chacha20 && !SSL_CTX_set_ciphersuites(ctx, "TLS_CHACHA20_POLY1305_SHA256"))
    fail("ChaCha20");
  return ctx;
}

static int choose_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in, unsigned in_len, void *arg) {
  (void)ssl, (void)arg;
  if (SSL_select_next_proto((unsigned char **)out, out_len, (const unsigned char *)ALPN, sizeof ALPN - 1, in, in_len) != OPENSSL_NPN_NEGOTIATED)
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  return SSL_TLSEXT_ERR_OK;
}

SSL_CTX *tls_server(void) {
  SSL_CTX *ctx = new_context(TLS_server_method());
  if (SSL_CTX_use_certificate_chain_file(ctx, opt.cert) != 1 || SSL_CTX_use_PrivateKey_file(ctx, opt.key, SSL_FILETYPE_PEM) != 1)
    fail("certificate");
  SSL_CTX_set_alpn_select_cb(ctx, choose_alpn, NULL);
  SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"interop", 7);
  if (opt.early)
    SSL_CTX_set_max_early_data(ctx, UINT32_MAX); // RFC 9001, Section 4.6.1
  return ctx;
}

SSL_CTX *tls_client(int (*new_session)(SSL *, SSL_SESSION *)) {
  SSL_CTX *ctx = new_context(TLS_client_method());
  if (SSL_CTX_load_verify_locations(ctx, opt.ca, NULL) != 1)
    fail("CA");
  SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
  SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_sess_set_new_cb(ctx, new_session);
  return ctx;
}
