// A QUIC client and server on ngtcp2 with OpenSSL, for interoperability tests.
// They speak hq-interop: HTTP/0.9 over QUIC, a file a stream ("GET /name").
#ifndef PEER_H
#define PEER_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>

#include <ngtcp2/ngtcp2.h>
#include <ngtcp2/ngtcp2_crypto.h>
#include <ngtcp2/ngtcp2_crypto_ossl.h>
#include <openssl/ssl.h>

#define ALPN "\x0ahq-interop"
#define CID_LEN 12

// options are the command line.
struct options {
  const char *address, *port; // the server's
  const char *dir;            // what is served, or where downloads go
  const char *cert, *key, *ca;
  const char *preferred, *preferred_port; // server: IPv4 address it asks clients to move to
  const char *migrate;   // client: address to move to when the handshake is confirmed
  bool v2, retry, chacha20, key_update;
  bool resume; // client: the first file on one connection, the others on a second that resumes it
  bool early;  // client: those in 0-RTT packets; server: take them
  bool each;   // client: every file on a connection of its own
};
extern struct options opt;

// endpoint is a bound UDP socket.
struct endpoint {
  int fd;
  struct sockaddr_storage addr;
  socklen_t addr_len;
};
extern struct endpoint endpoints[4];
extern size_t endpoint_count;

// stream is a request and its response.
struct stream {
  struct stream *next;
  int64_t id;        // -1: not open yet
  uint8_t *out;      // what is to be sent
  size_t len, off;   // of it, and how much ngtcp2 has taken
  bool fin, blocked; // all taken; flow control holds it
  char request[4096];
  size_t request_len;
  FILE *file; // client: the download
  bool done;
};

// conn is a connection.
struct conn {
  struct conn *next;
  ngtcp2_conn *quic;
  ngtcp2_crypto_conn_ref ref;
  ngtcp2_crypto_ossl_ctx *tls;
  SSL *ssl;
  struct stream *streams;
  bool confirmed, migrated;
  uint64_t key_updates, packets, ect0, ce;
  uint64_t early_streams; // opened before the handshake was complete
  ngtcp2_ccerr error;
};

// common.c
void die(const char *what, const char *why);
ngtcp2_tstamp now(void);
struct endpoint *bind_endpoint(const char *address, const char *port);
void parse_address(const char *address, const char *port, struct sockaddr_storage *to, socklen_t *len);
bool read_datagram(struct endpoint *e, struct sockaddr_storage *from, socklen_t *from_len, ngtcp2_pkt_info *info, uint8_t *buf, size_t *len);
void send_datagram(const ngtcp2_path *path, const ngtcp2_pkt_info *info, const uint8_t *buf, size_t len);
int poll_ms(ngtcp2_tstamp expiry);

// conn.c
struct conn *conn_new(bool server, SSL_CTX *ctx);
void conn_callbacks(ngtcp2_callbacks *cb);
void conn_settings(ngtcp2_settings *s, ngtcp2_transport_params *p, bool server);
struct stream *conn_stream(struct conn *c, int64_t id);
int conn_read(struct conn *c, struct endpoint *e, struct sockaddr_storage *from, socklen_t from_len, const ngtcp2_pkt_info *info, const uint8_t *buf, size_t len);
int conn_write(struct conn *c);
void conn_close(struct conn *c);
void conn_report(const struct conn *c);
void conn_free(struct conn *c);

// tls.c
SSL_CTX *tls_server(void);
SSL_CTX *tls_client(int (*new_session)(SSL *, SSL_SESSION *));

// client.c, server.c
int client(char **names, size_t n);
int server(void);
// Called by conn.c: data of a stream has arrived; a stream is over.
void client_data(struct conn *c, struct stream *s, const uint8_t *data, size_t len, bool fin);
void client_rejected(struct conn *c);
void server_data(struct conn *c, struct stream *s, const uint8_t *data, size_t len, bool fin);
void server_add_id(struct conn *c, const ngtcp2_cid *id);
void server_remove_id(const ngtcp2_cid *id);

#endif
