// Sockets and time.
#include "peer.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/ip.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct endpoint endpoints[4];
size_t endpoint_count;

void die(const char *what, const char *why) {
  fprintf(stderr, "peer: %s: %s\n", what, why);
  exit(1);
}

ngtcp2_tstamp now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (ngtcp2_tstamp)t.tv_sec * NGTCP2_SECONDS + (ngtcp2_tstamp)t.tv_nsec;
}

void parse_address(const char *address, const char *port, struct sockaddr_storage *to, socklen_t *len) {
  struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *r;
  int err = getaddrinfo(address, port, &hints, &r);
  if (err)
    die(address, gai_strerror(err));
  memcpy(to, r->ai_addr, r->ai_addrlen);
  *len = r->ai_addrlen;
  freeaddrinfo(r);
}

// bind_endpoint opens a socket that tells and sets ECN marks.
struct endpoint *bind_endpoint(const char *address, const char *port) {
  if (endpoint_count == sizeof endpoints / sizeof *endpoints)
    die(address, "too many sockets");
  struct endpoint *e = &endpoints[endpoint_count++];
  parse_address(address, port, &e->addr, &e->addr_len);
  bool v6 = e->addr.ss_family == AF_INET6;
  if ((e->fd = socket(e->addr.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) < 0)
    die("socket", strerror(errno));
  int on = 1, size = 4 << 20, dont = v6 ? IPV6_PMTUDISC_PROBE : IP_PMTUDISC_PROBE;
  if (setsockopt(e->fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_RECVTCLASS : IP_RECVTOS, &on, sizeof on) ||
      setsockopt(e->fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_MTU_DISCOVER : IP_MTU_DISCOVER, &dont, sizeof dont))
    die("setsockopt", strerror(errno));
  setsockopt(e->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
  if (bind(e->fd, (struct sockaddr *)&e->addr, e->addr_len))
    die(address, strerror(errno));
  e->addr_len = sizeof e->addr;
  getsockname(e->fd, (struct sockaddr *)&e->addr, &e->addr_len);
  return e;
}

// read_datagram returns false when there is none.
bool read_datagram(struct endpoint *e, struct sockaddr_storage *from, socklen_t *from_len, ngtcp2_pkt_info *info, uint8_t *buf, size_t *len) {
  uint8_t control[64];
  struct iovec v = {buf, *len};
  struct msghdr m = {.msg_name = from, .msg_namelen = sizeof *from, .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  ssize_t n;
  do
    n = recvmsg(e->fd, &m, 0);
  while (n < 0 && (errno == EINTR || errno == ECONNREFUSED));
  if (n < 0)
    return false;
  *len = (size_t)n;
  *from_len = m.msg_namelen;
  info->ecn = NGTCP2_ECN_NOT_ECT;
  for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
    // IPv4 gives one byte, IPv6 an int.
    if (h->cmsg_level == IPPROTO_IP && h->cmsg_type == IP_TOS)
      info->ecn = *CMSG_DATA(h) & IPTOS_ECN_MASK;
    if (h->cmsg_level == IPPROTO_IPV6 && h->cmsg_type == IPV6_TCLASS) {
      int class;
      memcpy(&class, CMSG_DATA(h), sizeof class);
      info->ecn = (uint8_t)(class & IPTOS_ECN_MASK);
    }
  }
  return true;
}

// send_datagram sends from the endpoint that has the path's local address.
void send_datagram(const ngtcp2_path *path, const ngtcp2_pkt_info *info, const uint8_t *buf, size_t len) {
  struct endpoint *e = endpoints;
  while (e->addr_len != path->local.addrlen || memcmp(&e->addr, path->local.addr, e->addr_len) != 0)
    if (++e == endpoints + endpoint_count)
      die("send", "a path from an unknown address");
  bool v6 = e->addr.ss_family == AF_INET6;
  union {
    struct cmsghdr h;
    uint8_t space[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct iovec v = {(void *)buf, len};
  struct msghdr m = {.msg_name = path->remote.addr, .msg_namelen = path->remote.addrlen, .msg_iov = &v, .msg_iovlen = 1};
  if (info->ecn != NGTCP2_ECN_NOT_ECT) {
    int mark = info->ecn;
    m.msg_control = &control;
    m.msg_controllen = sizeof control;
    control.h.cmsg_level = v6 ? IPPROTO_IPV6 : IPPROTO_IP;
    control.h.cmsg_type = v6 ? IPV6_TCLASS : IP_TOS;
    control.h.cmsg_len = CMSG_LEN(sizeof mark);
    memcpy(CMSG_DATA(&control.h), &mark, sizeof mark);
  }
  // What can't be sent is lost, as anything may be; QUIC sends it again.
  (void)!sendmsg(e->fd, &m, 0);
}

// poll_ms is how long poll may wait for an expiry.
int poll_ms(ngtcp2_tstamp expiry) {
  ngtcp2_tstamp t = now();
  if (expiry <= t)
    return 0;
  ngtcp2_duration wait = (expiry - t + NGTCP2_MILLISECONDS - 1) / NGTCP2_MILLISECONDS;
  return wait > 1000 ? 1000 : (int)wait;
}
