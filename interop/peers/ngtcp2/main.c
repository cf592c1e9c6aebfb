// peer server|client --address IP --port N --dir DIR [options] [NAME...]
#include "peer.h"

#include <getopt.h>
#include <signal.h>
#include <string.h>

struct options opt = {.address = "127.0.0.1", .port = "0", .dir = "."};

static const struct option names[] = {
    {"address", required_argument, NULL, 'a'}, {"port", required_argument, NULL, 'p'},
    {"dir", required_argument, NULL, 'd'},     {"cert", required_argument, NULL, 'c'},
    {"key", required_argument, NULL, 'k'},     {"ca", required_argument, NULL, 'C'},
    {"preferred", required_argument, NULL, 'P'}, {"migrate", required_argument, NULL, 'm'},
    {"preferred-port", required_argument, NULL, 'Q'},
    {"v2", no_argument, NULL, '2'},            {"retry", no_argument, NULL, 'r'},
    {"chacha20", no_argument, NULL, 'x'},      {"key-update", no_argument, NULL, 'u'},
    {"resume", no_argument, NULL, 's'},        {"early", no_argument, NULL, 'e'},
    {"each", no_argument, NULL, 'E'},          {0},
};

static void set(int o) {
  switch (o) {
  case 'a': opt.address = optarg; break;
  case 'p': opt.port = optarg; break;
  case 'd': opt.dir = optarg; break;
  case 'c': opt.cert = optarg; break;
  case 'k': opt.key = optarg; break;
  case 'C': opt.ca = optarg; break;
  case 'P': opt.preferred = optarg; break;
  case 'Q': opt.preferred_port = optarg; break;
  case 'm': opt.migrate = optarg; break;
  case '2': opt.v2 = true; break;
  case 'r': opt.retry = true; break;
  case 'x': opt.chacha20 = true; break;
  case 'u': opt.key_update = true; break;
  case 's': opt.resume = true; break;
  case 'e': opt.early = true; break;
  case 'E': opt.each = true; break;
  default: die("options", "see main.c");
  }
}

int main(int argc, char **argv) {
  for (int o; (o = getopt_long(argc, argv, "", names, NULL)) != -1;)
    set(o);
  signal(SIGPIPE, SIG_IGN);
  if (ngtcp2_crypto_ossl_init() != 0)
    die("OpenSSL", "too old");
  if (optind < argc && strcmp(argv[optind], "server") == 0 && opt.cert && opt.key)
    return server();
  if (optind + 1 < argc && strcmp(argv[optind], "client") == 0 && opt.ca)
    return client(argv + optind + 1, (size_t)(argc - optind - 1));
  die("usage", "peer [options] server|client [NAME...]");
}
