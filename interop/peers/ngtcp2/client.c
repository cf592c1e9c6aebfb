// The client: downloads files.
#include "peer.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static SSL_SESSION *session; // the newest ticket
static uint8_t params[512];  // the transport parameters that belong to it
static ngtcp2_ssize params_len;
static struct conn *current;

static int new_session(SSL *ssl, SSL_SESSION *s) {
  (void)ssl;
  SSL_SESSION_free(session);
  session = s;
  params_len = ngtcp2_conn_encode_0rtt_transport_params2(current->quic, params, sizeof params);
  return 1;
}

// open_streams sends as many requests as the server allows.
static void open_streams(struct conn *c) {
  for (struct stream *s = c->streams; s; s = s->next) {
    if (s->id >= 0)
      continue;
    if (ngtcp2_conn_open_bidi_stream(c->quic, &s->id, s) != 0) {
      s->id = -1;
      return;
    }
    c->early_streams += !ngtcp2_conn_get_handshake_completed2(c->quic);
  }
}

void client_data(struct conn *c, struct stream *s, const uint8_t *data, size_t len, bool fin) {
  (void)c;
  if (len && fwrite(data, 1, len, s->file) != len)
    die(s->request, "write failed");
  if (fin) {
    if (fclose(s->file))
      die(s->request, "close failed");
    s->file = NULL;
    s->done = true;
  }
}

// client_rejected takes back what was sent in 0-RTT packets.
void client_rejected(struct conn *c) {
  ngtcp2_conn_tls_early_data_rejected(c->quic);
  c->early_streams = 0;
  for (struct stream *s = c->streams; s; s = s->next) {
    s->id = -1;
    s->off = 0;
    s->fin = s->blocked = false;
  }
}

// migrate moves to another address, once the server has given an ID for it.
static void migrate(struct conn *c) {
  static struct endpoint *e;
  ngtcp2_path_storage ps;
  if (!opt.migrate || c->migrated || !c->confirmed)
    return;
  if (!e)
    e = bind_endpoint(opt.migrate, "0");
  const ngtcp2_path *old = ngtcp2_conn_get_path2(c->quic);
  ngtcp2_path_storage_init(&ps, (struct sockaddr *)&e->addr, e->addr_len, old->remote.addr, old->remote.addrlen, NULL);
  int err = ngtcp2_conn_initiate_migration(c->quic, &ps.path, now());
  if (err && err != NGTCP2_ERR_CONN_ID_BLOCKED)
    die("migration", ngtcp2_strerror(err));
  c->migrated = !err;
}

static void request(struct conn *c, const char *name) {
  char path[4096];
  struct stream *s = conn_stream(c, -1);
  s->len = (size_t)snprintf(s->request, sizeof s->request, "GET /%s\r\n", name);
  snprintf(path, sizeof path, "%s/%s", opt.dir, name);
  if (!(s->out = malloc(s->len)) || !(s->file = fopen(path, "w")))
    die(path, "cannot create");
  memcpy(s->out, s->request, s->len);
}

static struct conn *dial(SSL_CTX *ctx, bool resume) {
  struct conn *c = current = conn_new(false, ctx);
  struct sockaddr_storage to;
  socklen_t to_len;
  parse_address(opt.address, opt.port, &to, &to_len);
  endpoint_count = 0;
  struct endpoint *e = bind_endpoint(to.ss_family == AF_INET6 ? "::1" : opt.address, "0");
  ngtcp2_path path = {.local = {(struct sockaddr *)&e->addr, e->addr_len}, .remote = {(struct sockaddr *)&to, to_len}};
  ngtcp2_callbacks cb;
  ngtcp2_settings settings;
  ngtcp2_transport_params tp;
  conn_callbacks(&cb);
  conn_settings(&settings, &tp, false);
  ngtcp2_cid scid = {.datalen = CID_LEN}, dcid = {.datalen = 18};
  settings.rand_ctx.native_handle = NULL;
  cb.rand(scid.data, scid.datalen, NULL);
  cb.rand(dcid.data, dcid.datalen, NULL);
  if (resume)
    SSL_set_session(c->ssl, session);
  bool early = resume && opt.early && SSL_SESSION_get_max_early_data(session) > 0;
  if (early)
    SSL_set_quic_tls_early_data_enabled(c->ssl, 1);
  int err = ngtcp2_conn_client_new(&c->quic, &dcid, &scid, &path, NGTCP2_PROTO_VER_V1, &cb, &settings, &tp, NULL, c);
  if (err)
    die("client", ngtcp2_strerror(err));
  ngtcp2_conn_set_tls_native_handle(c->quic, c->tls);
  if (early && params_len > 0 && ngtcp2_conn_decode_and_set_0rtt_transport_params(c->quic, params, (size_t)params_len) != 0)
    die("client", "transport parameters for 0-RTT");
  return c;
}

static bool finished(const struct conn *c, bool want_ticket) {
  for (const struct stream *s = c->streams; s; s = s->next)
    if (!s->done)
      return false;
  return !want_ticket || session;
}

// receive reads from all sockets that have something.
static int receive(struct conn *c, struct pollfd *fds) {
  static uint8_t buf[65536];
  for (size_t i = 0; i < endpoint_count; i++) {
    struct sockaddr_storage from;
    socklen_t from_len;
    ngtcp2_pkt_info info;
    size_t len = sizeof buf;
    for (int n = 0; fds[i].revents && n < 32 && read_datagram(&endpoints[i], &from, &from_len, &info, buf, &len); n++, len = sizeof buf) {
      int err = conn_read(c, &endpoints[i], &from, from_len, &info, buf, len);
      if (err)
        return err;
    }
  }
  return 0;
}

static int run(struct conn *c, bool want_ticket) {
  struct pollfd fds[4] = {0};
  for (;;) {
    open_streams(c);
    migrate(c);
    int err = conn_write(c);
    if (err)
      return err;
    if (finished(c, want_ticket))
      return 0;
    for (size_t i = 0; i < endpoint_count; i++)
      fds[i] = (struct pollfd){.fd = endpoints[i].fd, .events = POLLIN};
    poll(fds, endpoint_count, poll_ms(ngtcp2_conn_get_expiry2(c->quic)));
    if ((err = receive(c, fds)))
      return err;
    if (ngtcp2_conn_get_expiry2(c->quic) <= now() && (err = ngtcp2_conn_handle_expiry(c->quic, now()))) {
      ngtcp2_ccerr_set_liberr(&c->error, err, NULL, 0);
      return err;
    }
  }
}

// fetch downloads files on one connection.
static void fetch(SSL_CTX *ctx, char **names, size_t n, bool resume, bool want_ticket) {
  struct conn *c = dial(ctx, resume);
  for (size_t i = 0; i < n; i++)
    request(c, names[i]);
  int err = run(c, want_ticket);
  conn_close(c);
  conn_report(c);
  if (err) {
    const ngtcp2_ccerr *e = ngtcp2_conn_get_ccerr2(c->quic);
    fprintf(stderr, "peer: connection: %s; the server said %llu: %.*s\n", ngtcp2_strerror(err), (unsigned long long)e->error_code, (int)e->reasonlen, (const char *)e->reason);
    exit(1);
  }
  for (size_t i = 0; i < endpoint_count; i++)
    close(endpoints[i].fd);
  conn_free(c);
}

int client(char **names, size_t n) {
  SSL_CTX *ctx = tls_client(new_session);
  if (opt.each) {
    for (size_t i = 0; i < n; i++)
      fetch(ctx, names + i, 1, false, false);
  } else if (opt.resume) {
    fetch(ctx, names, 1, false, true);
    fetch(ctx, names + 1, n - 1, true, false);
  } else {
    fetch(ctx, names, n, false, false);
  }
  return 0;
}
