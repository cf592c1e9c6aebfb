// The server: serves the files of a directory.
#include "peer.h"

#include <openssl/rand.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

// id is a connection ID of a connection.
struct id {
  struct id *next;
  ngtcp2_cid cid;
  struct conn *conn;
};

static struct id *ids[4096];
static struct conn *conns;
static uint8_t secret[32]; // of Retry tokens
static SSL_CTX *ctx;

static struct id **bucket(const uint8_t *data, size_t len) {
  return &ids[len >= 2 ? (data[0] << 8 | data[1]) % 4096 : 0];
}

void server_add_id(struct conn *c, const ngtcp2_cid *cid) {
  struct id *i = calloc(1, sizeof *i), **b = bucket(cid->data, cid->datalen);
  if (!i)
    die("server", "out of memory");
  *i = (struct id){*b, *cid, c};
  *b = i;
}

void server_remove_id(const ngtcp2_cid *cid) {
  for (struct id **at = bucket(cid->data, cid->datalen); *at; at = &(*at)->next)
    if (ngtcp2_cid_eq(&(*at)->cid, cid)) {
      struct id *gone = *at;
      *at = gone->next;
      free(gone);
      return;
    }
}

static struct conn *find(const uint8_t *cid, size_t len) {
  for (struct id *i = *bucket(cid, len); i; i = i->next)
    if (i->cid.datalen == len && memcmp(i->cid.data, cid, len) == 0)
      return i->conn;
  return NULL;
}

static void forget(struct conn *c) {
  for (size_t b = 0; b < sizeof ids / sizeof *ids; b++)
    for (struct id **at = &ids[b]; *at;) {
      struct id *i = *at;
      if (i->conn != c) {
        at = &i->next;
        continue;
      }
      *at = i->next;
      free(i);
    }
  for (struct conn **at = &conns; *at; at = &(*at)->next)
    if (*at == c) {
      *at = c->next;
      break;
    }
  conn_report(c);
  conn_free(c);
}

// answer reads the file that a request names, or refuses with an empty answer.
static void answer(struct stream *s) {
  char path[8192], *name = s->request + 5;
  s->request[strcspn(s->request, "\r\n")] = 0;
  s->out = malloc(1);
  if (strncmp(s->request, "GET /", 5) || strstr(name, ".."))
    return;
  snprintf(path, sizeof path, "%s/%s", opt.dir, name);
  FILE *f = fopen(path, "r");
  if (!f)
    return;
  fseek(f, 0, SEEK_END);
  s->len = (size_t)ftell(f);
  rewind(f);
  if (!(s->out = realloc(s->out, s->len + 1)) || fread(s->out, 1, s->len, f) != s->len)
    die(path, "read failed");
  fclose(f);
}

void server_data(struct conn *c, struct stream *s, const uint8_t *data, size_t len, bool fin) {
  (void)c;
  if (len > sizeof s->request - 1 - s->request_len)
    len = sizeof s->request - 1 - s->request_len;
  memcpy(s->request + s->request_len, data, len);
  s->request_len += len;
  if (!s->out && (fin || memchr(s->request, '\n', s->request_len)))
    answer(s);
}

// send_retry makes the client show that it is at its address (RFC 9000, Section 8.1.2).
static void send_retry(const ngtcp2_path *path, const ngtcp2_pkt_hd *hd) {
  uint8_t buf[1200], token[NGTCP2_CRYPTO_MAX_RETRY_TOKENLEN2];
  ngtcp2_cid scid = {.datalen = CID_LEN};
  ngtcp2_pkt_info info = {0};
  RAND_bytes(scid.data, CID_LEN);
  ngtcp2_ssize n = ngtcp2_crypto_generate_retry_token2(token, secret, sizeof secret, hd->version, path->remote.addr, path->remote.addrlen, &scid, &hd->dcid, now());
  if (n > 0)
    n = ngtcp2_crypto_write_retry(buf, sizeof buf, hd->version, &hd->scid, &scid, &hd->dcid, token, (size_t)n);
  if (n < 0)
    die("Retry", "cannot be made");
  send_datagram(path, &info, buf, (size_t)n);
}

static void send_versions(const ngtcp2_path *path, const ngtcp2_version_cid *v) {
  uint8_t buf[1200];
  const uint32_t versions[] = {NGTCP2_PROTO_VER_V1, NGTCP2_PROTO_VER_V2};
  ngtcp2_pkt_info info = {0};
  ngtcp2_ssize n = ngtcp2_pkt_write_version_negotiation(buf, sizeof buf, 0x5a, v->scid, v->scidlen, v->dcid, v->dcidlen, versions, opt.v2 ? 2 : 1);
  if (n > 0)
    send_datagram(path, &info, buf, (size_t)n);
}

// add_preferred asks the client to move; what is sent there must reach the one socket.
static void add_preferred(ngtcp2_transport_params *tp) {
  struct sockaddr_storage to;
  socklen_t len;
  parse_address(opt.preferred, opt.preferred_port, &to, &len);
  tp->preferred_addr_present = tp->preferred_addr.ipv4_present = 1;
  memcpy(&tp->preferred_addr.ipv4, &to, sizeof tp->preferred_addr.ipv4);
  tp->preferred_addr.cid.datalen = CID_LEN;
  RAND_bytes(tp->preferred_addr.cid.data, CID_LEN);
  RAND_bytes(tp->preferred_addr.stateless_reset_token, sizeof tp->preferred_addr.stateless_reset_token);
}

// accept_conn makes a connection of a client's first packet, or returns NULL.
static struct conn *accept_conn(const ngtcp2_path *path, const uint8_t *buf, size_t len) {
  ngtcp2_pkt_hd hd;
  if (ngtcp2_accept(&hd, buf, len) != 0)
    return NULL;
  ngtcp2_cid original = hd.dcid;
  if (opt.retry) {
    if (hd.tokenlen == 0) {
      send_retry(path, &hd);
      return NULL;
    }
    if (ngtcp2_crypto_verify_retry_token2(&original, hd.token, hd.tokenlen, secret, sizeof secret, hd.version, path->remote.addr, path->remote.addrlen, &hd.dcid, 10 * NGTCP2_SECONDS, now()) != 0) {
      fprintf(stderr, "peer: a token that is not ours\n");
      return NULL;
    }
  }
  struct conn *c = conn_new(true, ctx);
  ngtcp2_callbacks cb;
  ngtcp2_settings settings;
  ngtcp2_transport_params tp;
  conn_callbacks(&cb);
  conn_settings(&settings, &tp, true);
  tp.original_dcid = original;
  tp.original_dcid_present = 1;
  if (opt.retry) {
    tp.retry_scid = hd.dcid;
    tp.retry_scid_present = 1;
    settings.token = hd.token;
    settings.tokenlen = hd.tokenlen;
    settings.token_type = NGTCP2_TOKEN_TYPE_RETRY;
  }
  if (opt.preferred)
    add_preferred(&tp);
  ngtcp2_cid scid = {.datalen = CID_LEN};
  RAND_bytes(scid.data, CID_LEN);
  int err = ngtcp2_conn_server_new(&c->quic, &hd.scid, &scid, path, hd.version, &cb, &settings, &tp, NULL, c);
  if (err)
    die("server", ngtcp2_strerror(err));
  ngtcp2_conn_set_tls_native_handle(c->quic, c->tls);
  server_add_id(c, &scid);
  server_add_id(c, &hd.dcid);
  if (opt.preferred)
    server_add_id(c, &tp.preferred_addr.cid);
  c->next = conns;
  return conns = c;
}

static void serve(struct conn *c) {
  int err = conn_write(c);
  if (err) {
    conn_close(c);
    forget(c);
  }
}

// receive handles one datagram.
static void receive(struct endpoint *e, struct sockaddr_storage *from, socklen_t from_len, const ngtcp2_pkt_info *info, const uint8_t *buf, size_t len) {
  ngtcp2_path path = {.local = {(struct sockaddr *)&e->addr, e->addr_len}, .remote = {(struct sockaddr *)from, from_len}};
  ngtcp2_version_cid v;
  int err = ngtcp2_pkt_decode_version_cid(&v, buf, len, CID_LEN);
  if (err == NGTCP2_ERR_VERSION_NEGOTIATION) {
    send_versions(&path, &v);
    return;
  }
  if (err)
    return;
  struct conn *c = find(v.dcid, v.dcidlen);
  if (!c && (v.version == 0 || !(c = accept_conn(&path, buf, len))))
    return;
  if ((err = conn_read(c, e, from, from_len, info, buf, len))) {
    if (err != NGTCP2_ERR_DRAINING && err != NGTCP2_ERR_DROP_CONN) {
      fprintf(stderr, "peer: connection: %s\n", ngtcp2_strerror(err));
      conn_close(c);
    }
    forget(c);
    return;
  }
  serve(c);
}

// expire runs the timers that are due and returns when the next one is.
static ngtcp2_tstamp expire(void) {
  ngtcp2_tstamp next = UINT64_MAX;
  for (struct conn *c = conns, *after; c; c = after) {
    after = c->next;
    if (ngtcp2_conn_get_expiry2(c->quic) <= now()) {
      int err = ngtcp2_conn_handle_expiry(c->quic, now());
      if (err || (err = conn_write(c))) {
        ngtcp2_ccerr_set_liberr(&c->error, err, NULL, 0);
        if (err != NGTCP2_ERR_IDLE_CLOSE)
          conn_close(c);
        forget(c);
        continue;
      }
    }
    ngtcp2_tstamp t = ngtcp2_conn_get_expiry2(c->quic);
    next = t < next ? t : next;
  }
  return next;
}

int server(void) {
  static uint8_t buf[65536];
  RAND_bytes(secret, sizeof secret);
  ctx = tls_server();
  struct endpoint *e = bind_endpoint(opt.address, opt.port);
  // The port's place is the same in both families.
  printf("{\"port\":%d}\n", ntohs(((struct sockaddr_in *)&e->addr)->sin_port));
  fflush(stdout);
  for (;;) {
    struct pollfd fd = {.fd = e->fd, .events = POLLIN};
    poll(&fd, 1, poll_ms(expire()));
    struct sockaddr_storage from;
    socklen_t from_len;
    ngtcp2_pkt_info info;
    size_t len = sizeof buf;
    for (int n = 0; n < 32 && read_datagram(e, &from, &from_len, &info, buf, &len); n++, len = sizeof buf)
      receive(e, &from, from_len, &info, buf, len);
  }
}
