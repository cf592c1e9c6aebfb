// What client and server connections have in common: callbacks of ngtcp2, the
// loop that writes packets, and the report about a connection.
#include "peer.h"

#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

static const uint32_t both_versions[] = {NGTCP2_PROTO_VER_V2, NGTCP2_PROTO_VER_V1};

static ngtcp2_conn *get_conn(ngtcp2_crypto_conn_ref *ref) { return ((struct conn *)ref->user_data)->quic; }

struct conn *conn_new(bool server, SSL_CTX *ctx) {
  struct conn *c = calloc(1, sizeof *c);
  if (!c || !(c->ssl = SSL_new(ctx)) || ngtcp2_crypto_ossl_ctx_new(&c->tls, c->ssl) != 0)
    die("connection", "out of memory");
  c->ref.get_conn = get_conn;
  c->ref.user_data = c;
  SSL_set_app_data(c->ssl, &c->ref);
  if (server) {
    SSL_set_accept_state(c->ssl);
    ngtcp2_crypto_ossl_configure_server_session(c->ssl);
    SSL_set_quic_tls_early_data_enabled(c->ssl, opt.early);
  } else {
    SSL_set_connect_state(c->ssl);
    ngtcp2_crypto_ossl_configure_client_session(c->ssl);
    SSL_set_alpn_protos(c->ssl, (const unsigned char *)ALPN, sizeof ALPN - 1);
    SSL_set_tlsext_host_name(c->ssl, "localhost");
    SSL_set1_host(c->ssl, "localhost");
  }
  ngtcp2_ccerr_default(&c->error);
  return c;
}

struct stream *conn_stream(struct conn *c, int64_t id) {
  struct stream *s = calloc(1, sizeof *s);
  if (!s)
    die("stream", "out of memory");
  s->id = id;
  struct stream **last = &c->streams;
  while (*last)
    last = &(*last)->next;
  return *last = s;
}

static void rand_bytes(uint8_t *dest, size_t len, const ngtcp2_rand_ctx *ctx) {
  (void)ctx;
  if (RAND_bytes(dest, (int)len) != 1)
    die("random numbers", "none");
}

static int new_id(ngtcp2_conn *quic, ngtcp2_cid *id, ngtcp2_stateless_reset_token *token, size_t len, void *user) {
  (void)quic;
  id->datalen = len;
  rand_bytes(id->data, len, NULL);
  rand_bytes(token->data, sizeof token->data, NULL);
  server_add_id(user, id);
  return 0;
}

static int remove_id(ngtcp2_conn *quic, const ngtcp2_cid *id, void *user) {
  (void)quic, (void)user;
  server_remove_id(id);
  return 0;
}

static int recv_stream_data(ngtcp2_conn *quic, uint32_t flags, int64_t id, uint64_t offset, const uint8_t *data, size_t len, void *user, void *stream_user) {
  (void)offset;
  struct conn *c = user;
  struct stream *s = stream_user;
  ngtcp2_conn_extend_max_stream_offset(quic, id, len);
  ngtcp2_conn_extend_max_offset(quic, len);
  bool fin = flags & NGTCP2_STREAM_DATA_FLAG_FIN;
  if (ngtcp2_conn_is_server2(quic))
    server_data(c, s, data, len, fin);
  else
    client_data(c, s, data, len, fin);
  return 0;
}

static int stream_open(ngtcp2_conn *quic, int64_t id, void *user) {
  ngtcp2_conn_set_stream_user_data(quic, id, conn_stream(user, id));
  return 0;
}

static void stream_free(struct conn *c, struct stream *s) {
  for (struct stream **at = &c->streams; *at; at = &(*at)->next)
    if (*at == s) {
      *at = s->next;
      break;
    }
  free(s->out);
  free(s);
}

static int stream_close(ngtcp2_conn *quic, uint32_t flags, int64_t id, uint64_t code, void *user, void *stream_user) {
  (void)flags, (void)code;
  struct stream *s = stream_user;
  if (!ngtcp2_conn_is_server2(quic))
    return 0; // the client frees its streams with the connection
  if (s)
    stream_free(user, s);
  if (ngtcp2_is_bidi_stream(id))
    ngtcp2_conn_extend_max_streams_bidi(quic, 1);
  return 0;
}

static int confirmed(ngtcp2_conn *quic, void *user) {
  (void)quic;
  ((struct conn *)user)->confirmed = true;
  return 0;
}

// handshake_completed is the server's moment of confirmation (RFC 9001, Section 4.1.2).
static int handshake_completed(ngtcp2_conn *quic, void *user) {
  return ngtcp2_conn_is_server2(quic) ? confirmed(quic, user) : 0;
}

static int early_data_rejected(ngtcp2_conn *quic, void *user) {
  (void)quic;
  client_rejected(user);
  return 0;
}

// select_preferred_addr goes where the server asks the client to go.
static int select_preferred_addr(ngtcp2_conn *quic, ngtcp2_path *dest, const ngtcp2_preferred_addr *preferred, void *user) {
  (void)quic, (void)user;
  if (preferred->ipv4_present && dest->local.addr->sa_family == AF_INET)
    ngtcp2_addr_copy_byte(&dest->remote, (const ngtcp2_sockaddr *)&preferred->ipv4, sizeof preferred->ipv4);
  return 0;
}

void conn_callbacks(ngtcp2_callbacks *cb) {
  *cb = (ngtcp2_callbacks){
      .client_initial = ngtcp2_crypto_client_initial_cb,
      .recv_client_initial = ngtcp2_crypto_recv_client_initial_cb,
      .recv_crypto_data = ngtcp2_crypto_recv_crypto_data_cb,
      .handshake_completed = handshake_completed,
      .handshake_confirmed = confirmed,
      .encrypt = ngtcp2_crypto_encrypt_cb,
      .decrypt = ngtcp2_crypto_decrypt_cb,
      .hp_mask = ngtcp2_crypto_hp_mask_cb,
      .recv_retry = ngtcp2_crypto_recv_retry_cb,
      .update_key = ngtcp2_crypto_update_key_cb,
      .delete_crypto_aead_ctx = ngtcp2_crypto_delete_crypto_aead_ctx_cb,
      .delete_crypto_cipher_ctx = ngtcp2_crypto_delete_crypto_cipher_ctx_cb,
      .get_path_challenge_data2 = ngtcp2_crypto_get_path_challenge_data2_cb,
      .version_negotiation = ngtcp2_crypto_version_negotiation_cb,
      .tls_early_data_rejected = early_data_rejected,
      .select_preferred_addr = select_preferred_addr,
      .rand = rand_bytes,
      .get_new_connection_id2 = new_id,
      .remove_connection_id = remove_id,
      .recv_stream_data = recv_stream_data,
      .stream_open = stream_open,
      .stream_close = stream_close,
  };
}

static void log_to_stderr(void *user, char *msg, size_t len) {
  (void)user;
  fwrite(msg, 1, len, stderr);
  fputc('\n', stderr);
}

void conn_settings(ngtcp2_settings *s, ngtcp2_transport_params *p, bool server) {
  ngtcp2_settings_default(s);
  s->initial_ts = now();
  s->max_window = s->max_stream_window = 6 << 20;
  if (getenv("PEER_LOG"))
    s->log_write = log_to_stderr;
  if (opt.v2) {
    s->preferred_versions = s->available_versions = both_versions;
    s->preferred_versionslen = s->available_versionslen = 2;
  }
  ngtcp2_transport_params_default(p);
  p->initial_max_stream_data_bidi_local = p->initial_max_stream_data_bidi_remote = 256 << 10;
  p->initial_max_data = 1 << 20;
  p->initial_max_streams_bidi = server ? 100 : 0;
  p->max_idle_timeout = 120 * NGTCP2_SECONDS;
  p->active_connection_id_limit = 7;
  p->grease_quic_bit = 1;
}

// update_keys updates again and again, as soon as RFC 9001, Section 6.1 allows.
static void update_keys(struct conn *c) {
  if (opt.key_update && c->confirmed && c->packets % 50 == 0 && ngtcp2_conn_initiate_key_update(c->quic, now()) == 0)
    c->key_updates++;
}

int conn_read(struct conn *c, struct endpoint *e, struct sockaddr_storage *from, socklen_t from_len, const ngtcp2_pkt_info *info, const uint8_t *buf, size_t len) {
  ngtcp2_path path = {.local = {(struct sockaddr *)&e->addr, e->addr_len}, .remote = {(struct sockaddr *)from, from_len}};
  c->packets++;
  c->ect0 += info->ecn == NGTCP2_ECN_ECT_0;
  c->ce += info->ecn == NGTCP2_ECN_CE;
  int err = ngtcp2_conn_read_pkt(c->quic, &path, info, buf, len, now());
  if (err != 0) {
    if (err == NGTCP2_ERR_CRYPTO)
      ngtcp2_ccerr_set_tls_alert(&c->error, ngtcp2_conn_get_tls_alert2(c->quic), NULL, 0);
    else
      ngtcp2_ccerr_set_liberr(&c->error, err, NULL, 0);
    return err;
  }
  for (struct stream *s = c->streams; s; s = s->next)
    s->blocked = false;
  update_keys(c);
  return 0;
}

static struct stream *sendable(struct conn *c) {
  for (struct stream *s = c->streams; s; s = s->next)
    if (s->id >= 0 && s->out && !s->fin && !s->blocked)
      return s;
  return NULL;
}

// conn_write sends what may be sent now.
int conn_write(struct conn *c) {
  static uint8_t buf[65536];
  ngtcp2_path_storage ps;
  ngtcp2_path_storage_zero(&ps);
  ngtcp2_tstamp t = now();
  size_t quantum = ngtcp2_conn_get_send_quantum2(c->quic), sent = 0;
  while (sent < quantum) {
    ngtcp2_pkt_info info = {0};
    struct stream *s = sendable(c);
    ngtcp2_vec v = {0};
    uint32_t flags = NGTCP2_WRITE_STREAM_FLAG_MORE;
    ngtcp2_ssize taken = -1;
    if (s) {
      v = (ngtcp2_vec){s->out + s->off, s->len - s->off};
      flags |= NGTCP2_WRITE_STREAM_FLAG_FIN;
    }
    ngtcp2_ssize n = ngtcp2_conn_writev_stream(c->quic, &ps.path, &info, buf, ngtcp2_conn_get_max_tx_udp_payload_size2(c->quic), &taken, flags, s ? s->id : -1, &v, s ? 1 : 0, t);
    if (s && taken >= 0) {
      s->off += (size_t)taken;
      s->fin = s->off == s->len;
    }
    if (n == NGTCP2_ERR_WRITE_MORE)
      continue;
    if (n == NGTCP2_ERR_STREAM_DATA_BLOCKED || n == NGTCP2_ERR_STREAM_SHUT_WR || n == NGTCP2_ERR_STREAM_NOT_FOUND) {
      s->blocked = true;
      continue;
    }
    if (n < 0) {
      ngtcp2_ccerr_set_liberr(&c->error, (int)n, NULL, 0);
      return (int)n;
    }
    if (n == 0)
      break;
    send_datagram(&ps.path, &info, buf, (size_t)n);
    sent += (size_t)n;
  }
  ngtcp2_conn_update_pkt_tx_time(c->quic, t);
  return 0;
}

// conn_close says goodbye, once: with c->error, where there is one.
void conn_close(struct conn *c) {
  uint8_t buf[1280];
  ngtcp2_path_storage ps;
  ngtcp2_pkt_info info = {0};
  if (ngtcp2_conn_in_closing_period2(c->quic) || ngtcp2_conn_in_draining_period2(c->quic))
    return;
  ngtcp2_path_storage_zero(&ps);
  ngtcp2_ssize n = ngtcp2_conn_write_connection_close(c->quic, &ps.path, &info, buf, sizeof buf, &c->error, now());
  if (n > 0)
    send_datagram(&ps.path, &info, buf, (size_t)n);
}

// conn_report writes what the test wants to know, as a line of JSON.
void conn_report(const struct conn *c) {
  const SSL_CIPHER *suite = SSL_get_current_cipher(c->ssl);
  printf("{\"version\":%u,\"resumed\":%s,\"early_data\":%s,\"early_streams\":%llu,\"suite\":%u,\"key_updates\":%llu,\"packets\":%llu,\"ect0\":%llu,\"ce\":%llu}\n",
         ngtcp2_conn_get_negotiated_version2(c->quic), SSL_session_reused(c->ssl) ? "true" : "false",
         SSL_get_early_data_status(c->ssl) == SSL_EARLY_DATA_ACCEPTED ? "true" : "false", (unsigned long long)c->early_streams,
         suite ? (unsigned)(SSL_CIPHER_get_id(suite) & 0xffff) : 0, (unsigned long long)c->key_updates,
         (unsigned long long)c->packets, (unsigned long long)c->ect0, (unsigned long long)c->ce);
  fflush(stdout);
}

void conn_free(struct conn *c) {
  while (c->streams)
    stream_free(c, c->streams);
  ngtcp2_conn_del(c->quic);
  SSL_set_app_data(c->ssl, NULL);
  SSL_set_shutdown(c->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN); // or its session is not for use again
  SSL_free(c->ssl);
  ngtcp2_crypto_ossl_ctx_del(c->tls);
  free(c);
}
