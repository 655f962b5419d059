/* mtlsload - load rig for gateways that ask for a client certificate and HTTP Digest.
 *
 * One epoll loop, one thread, OpenSSL. It plays either side:
 *   client  keep-alive requests over N mutual-TLS connections (closed loop, depth 1)
 *   connect a fresh full TLS handshake + one request per connection; with --upgrade the request asks to
 *           switch roles, its 101 counts, and the connection ends there: one admission after the other
 *   worker  N connections that ask to switch roles (Upgrade) and then serve requests
 *   idle    N connections that ask once (101 or 2xx) and are then held open and silent; says "ready" on
 *           stderr when all N are held (worker too), "closed" when the peer has closed all of them. With --bare
 *           they ask nothing: held when the TLS handshake is done. With --rounds SIGUSR1 is a storm: all are cut
 *           (reset, no goodbye) and dial again; when all are held again their counts are printed
 *   master  listens in the clear, answers each Upgrade with 101, then sends requests down every
 *           connection that it was handed (closed loop, depth 1): what a reverse-HTTP master does. With --rounds it
 *           keeps them silent until SIGUSR1, is busy for --seconds, prints its counts, and waits again; with --flying
 *           the next request goes down the connection that is idle longest
 *   origin  listens in the clear and answers every request with 200 and --reply bytes, or N bytes where the
 *           path ends in /bytes/N (N up to 1 MiB): the cheapest master
 *
 * master and origin take --port 0 and then say "port N" on stderr.
 * client with --rounds: connections have one answer each ("ready" on stderr), then are silent between the rounds.
 * worker, and idle without --rounds: SIGUSR1 prints the counts since the last time. wire_in and wire_out are bytes of
 * TLS records on all open connections, mb_in and mb_out those inside.
 *
 * --rate R     client: R requests a second at random moments (exponential gaps) whatever the answers do; latency counts
 *              from the moment when a request was due. It needs --rounds
 * --flying N   master: at most N requests under way at any time
 * --dials N    at most N connections under way (not yet admitted) at any time
 * --churn R    worker: once all are admitted, R times a second one that is not at work leaves (close_notify, close)
 *              and a new one comes; "left" counts. SIGUSR2 ends that, and begins it again
 * --paths N    "{}" in the path becomes 0 ... N-1 in turn, one request after the other
 * --chain named    the leaf alone where the server names its issuing CA in the CertificateRequest; whole (default): all
 * --identities F   lines of `certificate key user password-file path`: connection i comes as line i modulo their number
 *
 * Build: cc -O2 -o mtlsload mtlsload.c -lssl -lcrypto -lm     (Debian: libssl-dev)
 * Usage: mtlsload MODE --port P [--conns N] [--seconds S] [--cert F --key F] [--ca F] [--plain]
 *          [--user U --password-file F] [--method M] [--path /p] [--body BYTES] [--upgrade TOKEN|none]
 *          [--ramp CONNS_PER_SECOND] [--reply BYTES] [--rounds] [--bare] [--rate R] [--dials N] [--churn R] [--paths N]
 *          [--identities F] [--flying N] [--chain whole|named]
 * Prints one JSON object: counts, errors by kind, rates, latency percentiles in microseconds.
 * Exit status: 0 when no error was counted, 1 otherwise, 2 on bad usage.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum mode { CLIENT, CONNECT, WORKER, IDLE, MASTER, ORIGIN };
enum state { DEAD, TCP, TLS, SEND, RECV, SERVE, HELD, ASKED, PARKED };

struct identity { SSL_CTX *ctx; const char *user, *password, *path; };
struct conn {
    int fd, nc, auth_tries, dialing;
    enum state st;
    struct identity *id;
    char path[160];
    SSL *ssl;
    char *out; size_t outlen, outoff, outcap;
    char *in;  size_t inlen, incap;
    char nonce[256], realm[128], opaque[128], algo[32], cnonce[24];
    char ha1[65];
    int have_nonce, md5, served;
    int want_write;
    double t0, tconn;
};

static struct {
    enum mode mode; const char *cert, *key, *ca, *user, *password, *method, *path, *upgrade;
    int port, conns, body, reply, plain, switching, rounds;
    double seconds, ramp, rate, churn; int named, bare, dials, paths, flying;
} o = { .method = "GET", .path = "/", .conns = 32, .seconds = 5, .reply = 16, .ramp = 0 };

static struct identity *ids; static int nids;
static int ep, dialing;
static struct conn *cs;
static char *bodybuf, *replybuf;
static unsigned long done, tls_ok, upgraded, closed_by_peer, challenged;
static unsigned long e_tcp, e_tls, e_status, e_io, e_parse;
static unsigned long statuses[6];
static int first_bad_status;
static unsigned *lat; static size_t nlat, caplat;
static double t_start, t_stop, t_ready;
static int stopping;
static volatile sig_atomic_t signalled, churning = 1;
enum { MAX_REPLY = 1 << 20 };
static int settled;
static size_t bytes_in, bytes_out;
static unsigned long left, asked;                 /* left: workers that went; asked: requests that took a path */
static struct conn **idlers; static int nidlers, first_idler;  /* --rate: a ring of connections without a request */
static double due, leave;                         /* --rate, --churn: when the next one is to be */
static double rng_uniform(void) {                 /* (0, 1); the same sequence in every run */
    static unsigned long long x = 88172645463325252ULL;
    x ^= x << 13; x ^= x >> 7; x ^= x << 17;
    return (double)((x >> 11) + 1) / 9007199254740994.0;
}

static void on_signal(int number) { if (number == SIGUSR2) churning = !churning; else signalled = 1; }
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
static void die(const char *m) { fprintf(stderr, "mtlsload: %s\n", m); exit(2); }
static void sample(double s) {
    if (nlat == caplat) { caplat = caplat ? caplat * 2 : 1 << 16; lat = realloc(lat, caplat * sizeof *lat); }
    lat[nlat++] = (unsigned)(s * 1e6);
}
static void hex(const unsigned char *d, unsigned n, char *h) { for (unsigned i = 0; i < n; i++) sprintf(h + 2 * i, "%02x", d[i]); }
static void digest(int md5, const char *s, char *h) {
    unsigned char d[EVP_MAX_MD_SIZE]; unsigned n;
    EVP_Digest(s, strlen(s), d, &n, md5 ? EVP_md5() : EVP_sha256(), NULL); hex(d, n, h);
}
static void put(struct conn *c, const char *p, size_t n) {
    if (c->outlen + n > c->outcap) { c->outcap = (c->outlen + n) * 2; c->out = realloc(c->out, c->outcap); }
    memcpy(c->out + c->outlen, p, n); c->outlen += n;
}
static void puts_(struct conn *c, const char *s) { put(c, s, strlen(s)); }

static int param(const char *h, const char *end, const char *name, char *dst, size_t cap) {
    size_t n = strlen(name);
    for (const char *p = h; p + n + 1 < end; p++)
        if (!strncasecmp(p, name, n) && p[n] == '=' && (p == h || p[-1] == ' ' || p[-1] == ',')) {
            p += n + 1; const char *q;
            if (*p == '"') { p++; q = memchr(p, '"', end - p); } else for (q = p; q < end && *q != ',' && *q != '\r'; q++);
            if (!q || (size_t)(q - p) >= cap) return 0;
            memcpy(dst, p, q - p); dst[q - p] = 0; return 1;
        }
    return 0;
}
static void authorize(struct conn *c) {
    char a[1024], ha2[65], resp[65], line[2048];
    if (!c->ha1[0]) { snprintf(a, sizeof a, "%s:%s:%s", c->id->user, c->realm, c->id->password); digest(c->md5, a, c->ha1); }
    snprintf(a, sizeof a, "%s:%s", o.method, c->path); digest(c->md5, a, ha2);
    c->nc++;
    snprintf(a, sizeof a, "%s:%s:%08x:%s:auth:%s", c->ha1, c->nonce, c->nc, c->cnonce, ha2); digest(c->md5, a, resp);
    int n = snprintf(line, sizeof line,
        "Authorization: Digest username=\"%s\", realm=\"%s\", nonce=\"%s\", uri=\"%s\", %s%s%sresponse=\"%s\", "
        "qop=auth, nc=%08x, cnonce=\"%s\"%s%s%s\r\n", c->id->user, c->realm, c->nonce, c->path,
        c->algo[0] ? "algorithm=" : "", c->algo, c->algo[0] ? ", " : "", resp, c->nc, c->cnonce,
        c->opaque[0] ? ", opaque=\"" : "", c->opaque, c->opaque[0] ? "\"" : "");
    put(c, line, n);
}
static void next_path(struct conn *c) {
    const char *hole = o.paths ? strstr(c->id->path, "{}") : NULL;
    if (hole) snprintf(c->path, sizeof c->path, "%.*s%lu%s", (int)(hole - c->id->path), c->id->path, asked++ % o.paths, hole + 2);
    else snprintf(c->path, sizeof c->path, "%s", c->id->path);
}
static void request(struct conn *c) {
    char l[512]; c->outlen = c->outoff = 0;
    if (!c->auth_tries) next_path(c);
    snprintf(l, sizeof l, "%s %s HTTP/1.1\r\nHost: localhost:%d\r\n", o.method, c->path, o.port); puts_(c, l);
    if (c->id->user && c->have_nonce) authorize(c);
    if (o.switching) {
        snprintf(l, sizeof l, "Connection: Upgrade\r\nUpgrade: %s\r\nContent-Length: 0\r\n", o.upgrade); puts_(c, l);
        if (!strcmp(o.upgrade, "ptth")) puts_(c, "ALPN: http%2F1.1\r\n");
    } else if (o.body) { snprintf(l, sizeof l, "Content-Length: %d\r\n", o.body); puts_(c, l); }
    puts_(c, "\r\n");
    if (o.body && !o.switching) put(c, bodybuf, o.body);
    c->st = SEND; c->inlen = 0; c->t0 = now();
}
static void watch(struct conn *c, int w) {
    if (w == c->want_write) return;
    c->want_write = w;
    struct epoll_event e = { .events = EPOLLIN | (w ? EPOLLOUT : 0), .data.ptr = c };
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}
static void arrived(struct conn *c) { dialing -= c->dialing; c->dialing = 0; }
static void drop(struct conn *c) {
    arrived(c);
    if (c->ssl) SSL_free(c->ssl);
    if (c->fd >= 0) close(c->fd);
    c->ssl = NULL; c->fd = -1; c->st = DEAD; c->inlen = c->outlen = c->outoff = 0;
}
static void open_(struct conn *c) {
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(o.port) };
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->have_nonce = c->nc = c->auth_tries = 0; c->want_write = 0; c->ha1[0] = 0; c->tconn = now();
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) { e_tcp++; c->st = DEAD; return; }
    c->dialing = 1; dialing++;
    int one = 1; setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (void *)&a, sizeof a) && errno != EINPROGRESS) { e_tcp++; drop(c); return; }
    struct epoll_event e = { .events = EPOLLIN | EPOLLOUT, .data.ptr = c }; c->want_write = 1;
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
    c->st = TCP;
}
static int io_read(struct conn *c, char *p, int n) {
    if (!c->ssl) { int r = read(c->fd, p, n); if (r > 0) { bytes_in += r; return r; } return r < 0 && errno == EAGAIN ? -2 : -1; }
    int r = SSL_read(c->ssl, p, n);
    if (r > 0) { bytes_in += r; return r; }
    int e = SSL_get_error(c->ssl, r); ERR_clear_error();
    return e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE ? -2 : -1;
}
static int io_write(struct conn *c, char *p, int n) {
    if (!c->ssl) { int r = write(c->fd, p, n); if (r >= 0) { bytes_out += r; return r; } return errno == EAGAIN ? -2 : -1; }
    int r = SSL_write(c->ssl, p, n);
    if (r > 0) { bytes_out += r; return r; }
    int e = SSL_get_error(c->ssl, r); ERR_clear_error();
    return e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE ? -2 : -1;
}
static int flush_(struct conn *c) {
    while (c->outoff < c->outlen) {
        int r = io_write(c, c->out + c->outoff, (int)(c->outlen - c->outoff));
        if (r == -2) { watch(c, 1); return 1; }
        if (r < 0) return -1;
        c->outoff += r;
    }
    c->outlen = c->outoff = 0; watch(c, 0); return 0;
}
static int listening(void) { return o.mode == MASTER || o.mode == ORIGIN; }
static void finish_or_reopen(struct conn *c) { drop(c); if (!stopping && !listening()) open_(c); }
static char *first_line(const char *path) {
    char *l = NULL; size_t cap = 0; FILE *f = fopen(path, "r");
    if (!f || getline(&l, &cap, f) < 0) die("cannot read --password-file");
    fclose(f); l[strcspn(l, "\r\n")] = 0; return l;
}

/* length of the first complete message in the buffer, 0 if incomplete, -1 if malformed; head end in *headlen */
static long message(struct conn *c, size_t *headlen, int is_response, int head_only_ok) {
    char *e = memmem(c->in, c->inlen, "\r\n\r\n", 4);
    if (!e) return c->inlen > 65536 ? -1 : 0;
    size_t h = e + 4 - c->in; *headlen = h;
    int status = is_response && h > 12 ? atoi(c->in + 9) : 0;
    long len = -1; int chunked = 0;
    for (char *p = c->in; p < e; ) {
        char *n = memmem(p, e + 2 - p, "\r\n", 2); if (!n) break;
        if (!strncasecmp(p, "content-length:", 15)) len = atol(p + 15);
        else if (!strncasecmp(p, "transfer-encoding:", 18)) chunked = 1;
        p = n + 2;
    }
    if (is_response && (status / 100 == 1 || status == 204 || status == 304 || head_only_ok)) return h;
    if (chunked) {
        size_t p = h;
        for (;;) {
            char *n = memmem(c->in + p, c->inlen - p, "\r\n", 2); if (!n) return 0;
            long k = strtol(c->in + p, NULL, 16); p = n + 2 - c->in;
            if (k < 0) return -1;
            if (p + k + 2 > c->inlen) return 0;
            p += k + 2; if (k == 0) return p;
        }
    }
    if (len < 0) { if (is_response) return -1; len = 0; }
    return h + len <= c->inlen ? (long)(h + len) : 0;
}
static void shift(struct conn *c, size_t n) { memmove(c->in, c->in + n, c->inlen - n); c->inlen -= n; }

static void park(struct conn *c) { c->st = PARKED; idlers[(first_idler + nidlers++) % o.conns] = c; }
static struct conn *longest_idle(void) { struct conn *c = idlers[first_idler]; first_idler = (first_idler + 1) % o.conns; nidlers--; return c; }
static void admitted(struct conn *c) {
    arrived(c); upgraded++; sample(now() - c->tconn); c->auth_tries = 0;
    if (upgraded == (unsigned long)o.conns && !t_ready) { t_ready = leave = now(); fprintf(stderr, "ready\n"); }
    c->st = o.mode == IDLE ? HELD : SERVE;
}
static void on_response(struct conn *c, long n, size_t h) {
    int status = atoi(c->in + 9);
    if (status >= 100 && status < 600) statuses[status / 100]++;
    if (status == 401 && c->id->user && c->auth_tries++ < 3) {
        char *e = c->in + h; char *p = c->in; int found = 0;
        challenged++;
        while ((p = memmem(p, e - p, "\r\n", 2))) {
            p += 2;
            if (!strncasecmp(p, "www-authenticate:", 17)) {
                char *le = memmem(p, e - p, "\r\n", 2); char algo[32] = ""; param(p + 17, le, "algorithm", algo, sizeof algo);
                int md5 = !algo[0] || !strncasecmp(algo, "MD5", 3);
                if (strcasecmp(algo, "SHA-256") && !md5) continue;
                if (found && md5) continue;                       /* prefer SHA-256 */
                if (!param(p + 17, le, "nonce", c->nonce, sizeof c->nonce)) continue;
                c->realm[0] = c->opaque[0] = 0; c->ha1[0] = 0;
                param(p + 17, le, "realm", c->realm, sizeof c->realm); param(p + 17, le, "opaque", c->opaque, sizeof c->opaque);
                strcpy(c->algo, algo); c->md5 = md5; c->have_nonce = found = 1; c->nc = 0;
            }
        }
        unsigned char r[8]; RAND_bytes(r, 8); hex(r, 8, c->cnonce);
        if (found) { shift(c, n); request(c); flush_(c); return; }
    }
    if (o.mode == WORKER || o.mode == IDLE) {
        if (status == 101 || (o.mode == IDLE && status / 100 == 2)) {
            shift(c, n); admitted(c);
        }
        else { if (!first_bad_status) first_bad_status = status; e_status++; drop(c); }
        return;
    }
    int good = o.switching ? status == 101 : status / 100 == 2;
    if (!good) { if (!first_bad_status) first_bad_status = status; e_status++; }
    else { arrived(c); upgraded += o.switching; settled += !c->served; c->served = 1; done++; c->auth_tries = 0; sample(now() - (o.mode == CONNECT ? c->tconn : c->t0)); }
    { char *e = c->in + h, *p = c->in;                                     /* nextnonce */
      while ((p = memmem(p, e - p, "\r\n", 2))) { p += 2;
        if (!strncasecmp(p, "authentication-info:", 20)) { char *le = memmem(p, e - p, "\r\n", 2); char nn[256];
            if (param(p + 20, le, "nextnonce", nn, sizeof nn)) { strcpy(c->nonce, nn); c->nc = 0; } } } }
    int closing = memmem(c->in, h, "onnection: close", 16) != NULL;
    shift(c, n);
    if (o.mode == CONNECT || closing || (!good && o.mode != MASTER)) { finish_or_reopen(c); return; }
    if (stopping && o.rounds) { c->st = PARKED; return; }
    if (stopping) { drop(c); return; }
    if (o.rate > 0) { park(c); return; }
    if (o.flying) { park(c); c = longest_idle(); }
    request(c); if (flush_(c) < 0) { e_io++; finish_or_reopen(c); } else if (c->st == SEND && c->outlen == 0) c->st = RECV;
}
static void on_ready(struct conn *c, unsigned ev) {
    if (c->st == TCP) {
        int err = 0; socklen_t l = sizeof err; getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &l);
        if (err || (ev & EPOLLERR)) { e_tcp++; drop(c); return; }
        if (!(ev & EPOLLOUT)) return;
        if (o.plain) { tls_ok++; request(c); }
        else { c->ssl = SSL_new(c->id->ctx); SSL_set_fd(c->ssl, c->fd); SSL_set_connect_state(c->ssl); c->st = TLS; }
    }
    if (c->st == TLS) {
        int r = SSL_do_handshake(c->ssl);
        if (r == 1 && o.bare) { tls_ok++; admitted(c); watch(c, 0); }
        else if (r == 1) { tls_ok++; request(c); }
        else { int e = SSL_get_error(c->ssl, r); ERR_clear_error();
            if (e == SSL_ERROR_WANT_WRITE) { watch(c, 1); return; }
            if (e == SSL_ERROR_WANT_READ) { watch(c, 0); return; }
            e_tls++; finish_or_reopen(c); return; }
    }
    if (c->outlen > c->outoff) { int r = flush_(c); if (r < 0) { e_io++; finish_or_reopen(c); return; } if (r) return; }
    if (c->st == SEND) c->st = RECV;
    for (;;) {
        if (c->st == DEAD) return;
        if (c->inlen + 16384 > c->incap) { c->incap = c->inlen + 32768; c->in = realloc(c->in, c->incap); }
        int r = io_read(c, c->in + c->inlen, 16384);
        if (r == -2) {
            if (c->st == HELD && c->inlen == 0 && c->incap) { free(c->in); c->in = NULL; c->incap = 0; free(c->out); c->out = NULL; c->outcap = 0; }
            return;
        }
        if (r < 0) {
            if (c->st == SERVE || c->st == HELD || c->st == PARKED) { closed_by_peer++; drop(c); if (o.mode == IDLE && closed_by_peer == (unsigned long)o.conns) fprintf(stderr, "closed\n"); }
            else { if (!stopping) e_io++; finish_or_reopen(c); }
            return;
        }
        c->inlen += r;
        for (;;) {
            size_t h; int resp = c->st != SERVE;
            if (c->st == HELD || c->st == PARKED || !c->inlen) break;
            if (c->st == ASKED) {
                long n = message(c, &h, 0, 0); if (n <= 0) break;
                char l[160]; snprintf(l, sizeof l, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", o.upgrade);
                shift(c, n); put(c, l, strlen(l)); flush_(c); upgraded++;
                if (o.rounds && stopping) { c->st = PARKED; break; }
                request(c); flush_(c);
                if (c->st == SEND && c->outlen == 0) c->st = RECV;
                break;
            }
            long n = message(c, &h, resp, resp && !strcmp(o.method, "HEAD"));
            if (n < 0) { e_parse++; drop(c); return; }
            if (!n) break;
            if (resp) { if (c->st == SEND) c->st = RECV; on_response(c, n, h); if (c->st == DEAD || c->st == TCP) return; if (c->st == SEND && c->outlen == 0) c->st = RECV; }
            else {
                int size = o.reply; char *e = memmem(c->in, h, "\r\n", 2), *b = memmem(c->in, e - c->in, "/bytes/", 7);
                if (b) { long k = strtol(b + 7, NULL, 10); if (k >= 0 && k <= MAX_REPLY) size = (int)k; }
                char l[160]; int m = snprintf(l, sizeof l, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n", size);
                int head = !strncmp(c->in, "HEAD ", 5);
                put(c, l, m); if (!head) put(c, replybuf, size);
                done++; shift(c, n); if (flush_(c) < 0) { e_io++; drop(c); return; }
            }
        }
    }
}
static void accept_all(int ls) {
    for (;;) {
        int fd = accept4(ls, NULL, NULL, SOCK_NONBLOCK); if (fd < 0) return;
        struct conn *c = NULL; for (int i = 0; i < o.conns; i++) if (cs[i].st == DEAD) { c = &cs[i]; break; }
        if (!c) { close(fd); e_tcp++; continue; }
        int one = 1; setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c->fd = fd; c->st = o.mode == ORIGIN ? SERVE : ASKED; c->want_write = 0; c->have_nonce = 0;
        struct epoll_event e = { .events = EPOLLIN, .data.ptr = c }; epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
    }
}
static int cmp(const void *a, const void *b) { unsigned x = *(unsigned *)a, y = *(unsigned *)b; return x < y ? -1 : x > y; }
static unsigned pct(double p) { return nlat ? lat[(size_t)(p * (nlat - 1))] : 0; }

/* bytes of the connections that are open now, as TCP counts them, since the last time */
static void on_the_wire(unsigned long long *in, unsigned long long *out) {
    static unsigned long long last_in, last_out; unsigned long long i = 0, o_ = 0;
    for (int k = 0; k < o.conns; k++) {
        struct tcp_info_ { char head[120]; unsigned long long acked, received; } info; socklen_t l = sizeof info;
        if (cs[k].fd >= 0 && !getsockopt(cs[k].fd, IPPROTO_TCP, TCP_INFO, &info, &l) && l == sizeof info) { i += info.received; o_ += info.acked; }
    }
    *in = i > last_in ? i - last_in : 0; *out = o_ > last_out ? o_ - last_out : 0; last_in = i; last_out = o_;
}
static unsigned long report(const char *name) {
    double el = now() - t_start; if (stopping && (o.mode == CLIENT || o.mode == MASTER)) el = o.seconds < el ? o.seconds : el;
    qsort(lat, nlat, sizeof *lat, cmp);
    unsigned long long wire_in, wire_out; on_the_wire(&wire_in, &wire_out);
    struct rusage ru; getrusage(RUSAGE_SELF, &ru);
    unsigned long errs = e_tcp + e_tls + e_status + e_io + e_parse;
    printf("{\"mode\": \"%s\", \"conns\": %d, \"seconds\": %.3f, \"tls\": %lu, \"challenged\": %lu, \"upgraded\": %lu, \"ready_s\": %.3f, \"done\": %lu, \"per_second\": %.1f, "
           "\"p50_us\": %u, \"p90_us\": %u, \"p99_us\": %u, \"p999_us\": %u, \"max_us\": %u, \"closed_by_peer\": %lu, \"left\": %lu, \"wire_in\": %llu, \"wire_out\": %llu, "
           "\"errors\": {\"tcp\": %lu, \"tls\": %lu, \"status\": %lu, \"io\": %lu, \"parse\": %lu, \"first_bad_status\": %d}, \"rig_cpu_s\": %.2f, \"mb_in\": %.6f, \"mb_out\": %.6f}\n",
           name, o.conns, el, tls_ok, challenged, upgraded, t_ready ? t_ready - t_start : 0.0, done, (o.mode == IDLE ? upgraded : done) / el, pct(.5), pct(.9), pct(.99), pct(.999), pct(1),
           closed_by_peer, left, wire_in, wire_out, e_tcp, e_tls, e_status, e_io, e_parse, first_bad_status,
           ru.ru_utime.tv_sec + ru.ru_stime.tv_sec + (ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6, bytes_in / 1e6, bytes_out / 1e6);
    fflush(stdout);
    return errs;
}
static void ask(struct conn *c) {
    request(c);
    if (flush_(c) < 0) { e_io++; drop(c); } else if (!c->outlen) c->st = RECV;
}
/* what is sent is only what the server lacks: it has the CAs that it names */
static int choose_chain(SSL *ssl, void *unused) {
    const STACK_OF(X509_NAME) *names = SSL_get0_peer_CA_list(ssl); X509 *leaf = SSL_get_certificate(ssl); (void)unused;
    for (int i = 0; leaf && i < sk_X509_NAME_num(names); i++)
        if (!X509_NAME_cmp(sk_X509_NAME_value(names, i), X509_get_issuer_name(leaf))) { SSL_clear_chain_certs(ssl); break; }
    return 1;
}
static SSL_CTX *context(const char *cert, const char *key) {
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    if (cert && (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1 || SSL_CTX_use_PrivateKey_file(ctx, key ? key : cert, SSL_FILETYPE_PEM) != 1)) die("cannot read the certificate or its key");
    if (o.named) { SSL_CTX_set_mode(ctx, SSL_MODE_NO_AUTO_CHAIN); SSL_CTX_set_cert_cb(ctx, choose_chain, NULL); }
    if (o.ca) { if (SSL_CTX_load_verify_locations(ctx, o.ca, NULL) != 1) die("cannot read --ca"); SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL); }
    static const unsigned char alpn[] = "\x08http/1.1"; SSL_CTX_set_alpn_protos(ctx, alpn, sizeof alpn - 1);
    return ctx;
}
/* what was counted so far does not count */
static void forget(void) { done = left = challenged = closed_by_peer = e_tcp = e_tls = e_status = e_io = e_parse = 0; nlat = bytes_in = bytes_out = 0; memset(statuses, 0, sizeof statuses); first_bad_status = 0; }
static void begin_round(void) {
    forget(); signalled = stopping = 0; t_start = now(); t_stop = t_start + o.seconds;
    due = t_start; nidlers = 0;
    for (int i = 0; i < o.conns; i++) {
        if (cs[i].st == DEAD && o.mode == CLIENT) open_(&cs[i]);
        else if (cs[i].st == PARKED && (o.rate > 0 || o.flying)) park(&cs[i]);
        else if (cs[i].st == PARKED) ask(&cs[i]);
    }
    for (int i = 0; i < o.flying && nidlers; i++) ask(longest_idle());
}
/* all connections are cut and dial again, as many at a time as --dials says */
static void begin_storm(void) {
    struct linger at_once = { 1, 0 };
    for (int i = 0; i < o.conns; i++) {
        if (cs[i].fd >= 0) setsockopt(cs[i].fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
        drop(&cs[i]);
    }
    forget(); signalled = 0; upgraded = tls_ok = 0; t_ready = 0; t_start = now();
}
/* --rate: what is due goes out on a connection that has nothing to do; how long to wait for the next, in seconds */
static double pace(double t) {
    while (t >= due && nidlers) {
        struct conn *c = longest_idle(); double at = due;
        due -= log(rng_uniform()) / o.rate;
        if (c->st != PARKED) { open_(c); continue; }
        ask(c); c->t0 = at;
    }
    return nidlers && due < t + 0.02 ? due - t : 0.02;
}
/* --churn: the connection after the last one that left and is not at work goes, and comes again */
static void churn(double t) {
    static int next;
    for (int tried = 0; leave + 1 / o.churn <= t && tried < o.conns; next = (next + 1) % o.conns, tried++) {
        struct conn *c = &cs[next];
        if (c->st != SERVE || c->inlen || c->outlen > c->outoff) continue;
        if (c->ssl) SSL_shutdown(c->ssl);
        drop(c); left++; leave += 1 / o.churn; open_(c);
    }
}
static void read_identities(const char *file) {
    FILE *f = fopen(file, "r"); char line[2048], cert[512], key[512], user[128], password[512], path[128];
    if (!f) die("cannot read --identities");
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "%511s %511s %127s %511s %127s", cert, key, user, password, path) != 5) die("a line of --identities lacks a word");
        ids = realloc(ids, (nids + 1) * sizeof *ids);
        ids[nids++] = (struct identity){ .ctx = context(cert, key), .user = strdup(user), .password = first_line(password), .path = strdup(path) };
    }
    fclose(f);
    if (!nids) die("--identities names nobody");
}
int main(int argc, char **argv) {
    if (argc < 2) die("usage: mtlsload client|connect|worker|idle|master|origin --port P ... (see the head of mtlsload.c)");
    o.mode = !strcmp(argv[1], "client") ? CLIENT : !strcmp(argv[1], "connect") ? CONNECT : !strcmp(argv[1], "worker") ? WORKER : !strcmp(argv[1], "idle") ? IDLE : !strcmp(argv[1], "master") ? MASTER : !strcmp(argv[1], "origin") ? ORIGIN : (die("unknown mode"), 0);
    o.method = NULL; o.port = -1; const char *identities = NULL;
    for (int i = 2; i < argc; i++) {
        const char *k = argv[i];
        if (!strcmp(k, "--plain")) { o.plain = 1; continue; }
        if (!strcmp(k, "--rounds")) { o.rounds = 1; continue; }
        if (!strcmp(k, "--bare")) { o.bare = 1; continue; }
        if (i + 1 >= argc) die("an option lacks its value");
        const char *v = argv[++i];
        if (!strcmp(k, "--port")) o.port = atoi(v); else if (!strcmp(k, "--conns")) o.conns = atoi(v);
        else if (!strcmp(k, "--seconds")) o.seconds = atof(v); else if (!strcmp(k, "--cert")) o.cert = v; else if (!strcmp(k, "--key")) o.key = v;
        else if (!strcmp(k, "--ca")) o.ca = v; else if (!strcmp(k, "--user")) o.user = v; else if (!strcmp(k, "--password-file")) o.password = first_line(v);
        else if (!strcmp(k, "--method")) o.method = v; else if (!strcmp(k, "--path")) o.path = v; else if (!strcmp(k, "--body")) o.body = atoi(v);
        else if (!strcmp(k, "--upgrade")) o.upgrade = v;
        else if (!strcmp(k, "--ramp")) o.ramp = atof(v); else if (!strcmp(k, "--reply")) o.reply = atoi(v);
        else if (!strcmp(k, "--rate")) o.rate = atof(v); else if (!strcmp(k, "--churn")) o.churn = atof(v); else if (!strcmp(k, "--dials")) o.dials = atoi(v); else if (!strcmp(k, "--flying")) o.flying = atoi(v);
        else if (!strcmp(k, "--chain")) o.named = !strcmp(v, "named");
        else if (!strcmp(k, "--paths")) o.paths = atoi(v); else if (!strcmp(k, "--identities")) identities = v;
        else die("unknown option");
    }
    if (o.port < 0 || (!o.port && !listening())) die("--port is needed");
    o.switching = o.mode == WORKER || o.mode == IDLE || (o.mode == CONNECT && o.upgrade);
    if (!o.upgrade) o.upgrade = "PTTH/1.0";
    if (!strcmp(o.upgrade, "none")) o.switching = 0;
    if (!o.method) o.method = o.mode == WORKER || o.mode == IDLE || o.switching ? "POST" : "GET";
    if (o.user && !o.password) die("--user needs --password-file");
    struct rlimit rl = { 1048576, 1048576 }; if (setrlimit(RLIMIT_NOFILE, &rl)) { getrlimit(RLIMIT_NOFILE, &rl); rl.rlim_cur = rl.rlim_max; setrlimit(RLIMIT_NOFILE, &rl); }
    if (identities) read_identities(identities);
    else { ids = malloc(sizeof *ids); nids = 1; ids[0] = (struct identity){ .ctx = context(o.cert, o.key), .user = o.user, .password = o.password, .path = o.path }; }
    bodybuf = malloc(o.body + 1); memset(bodybuf, 'b', o.body); size_t most = o.reply > MAX_REPLY ? o.reply : MAX_REPLY; replybuf = malloc(most); memset(replybuf, 'r', most);
    signal(SIGPIPE, SIG_IGN);
    ep = epoll_create1(0); cs = calloc(o.conns, sizeof *cs);
    for (int i = 0; i < o.conns; i++) { cs[i].fd = -1; cs[i].st = DEAD; cs[i].id = &ids[i % nids]; }
    idlers = calloc(o.conns, sizeof *idlers);
    int ls = -1; static struct conn listener;
    if (listening()) {
        struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(o.port) }; a.sin_addr.s_addr = htonl(INADDR_LOOPBACK); int one = 1;
        ls = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0); setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(ls, (void *)&a, sizeof a) || listen(ls, 4096)) die("cannot listen");
        socklen_t al = sizeof a; getsockname(ls, (void *)&a, &al); fprintf(stderr, "port %d\n", ntohs(a.sin_port));
        struct epoll_event e = { .events = EPOLLIN, .data.ptr = &listener }; epoll_ctl(ep, EPOLL_CTL_ADD, ls, &e);
    }
    if (o.rounds && o.mode != MASTER && o.mode != CLIENT && o.mode != IDLE) die("--rounds is for masters, clients and idle connections");
    if (o.rate > 0 && (o.mode != CLIENT || !o.rounds)) die("--rate is for clients with --rounds");
    if (o.flying && (o.mode != MASTER || !o.rounds)) die("--flying is for masters with --rounds");
    if (o.churn > 0 && o.mode != WORKER) die("--churn is for workers");
    if (o.bare && (o.mode != IDLE || o.plain)) die("--bare is for idle connections with TLS");
    int storms = o.rounds && o.mode == IDLE, counting = o.mode == WORKER || o.mode == IDLE;
    if (storms) o.rounds = 0;
    if (o.rounds || counting) { struct sigaction a = { .sa_handler = on_signal }; sigaction(SIGUSR1, &a, NULL); sigaction(SIGUSR2, &a, NULL); }
    if (o.rounds) stopping = 1;
    t_start = now(); t_stop = t_start + o.seconds;
    int opened = 0, in_round = 0, in_storm = 0; struct epoll_event ev[512];
    for (;;) {
        double t = now();
        if (storms && signalled) { begin_storm(); opened = 0; in_storm = 1; t = t_start; }
        else if (counting && signalled) { signalled = 0; report(argv[1]); forget(); t_start = t; }
        if (in_storm && t_ready) { in_storm = 0; report(argv[1]); }
        if (o.churn > 0 && t_ready) { if (churning) churn(t); else leave = t; }
        if (o.rounds) {
            unsigned long early = o.mode == CLIENT && !t_ready ? e_tcp + e_tls + e_status + e_io + e_parse : 0;
            if (early) { fprintf(stderr, "failed before all connections were served, first bad status %d\n", first_bad_status); return 1; }
            if (o.mode == CLIENT && settled == o.conns && !t_ready) { t_ready = t; fprintf(stderr, "ready\n"); }
            int busy = 0; for (int i = 0; i < o.conns && in_round && stopping; i++) busy += cs[i].st == SEND || cs[i].st == RECV;
            if (signalled && stopping) { begin_round(); in_round = 1; }
            else if (!stopping && t >= t_stop) { stopping = 1; t_stop = t + 1.0; }
            else if (in_round && stopping && (!busy || t >= t_stop)) { in_round = 0; report(argv[1]); }
        } else if (t >= t_stop && !stopping) { stopping = 1; if (o.mode == WORKER || o.mode == IDLE || o.mode == CONNECT || o.mode == ORIGIN) break; t_stop = t + 1.0; }
        else if (t >= t_stop) break;
        int may = o.ramp > 0 ? (int)((t - t_start) * o.ramp) + 1 : o.conns;
        for (int burst = 0; !listening() && opened < o.conns && opened < may && burst < 256 && (!o.dials || dialing < o.dials) && (!stopping || (o.rounds && !in_round)); burst++) open_(&cs[opened++]);
        int live = stopping ? 0 : 1;
        if (o.rounds) live = 1;
        else if (stopping) for (int i = 0; i < o.conns; i++) if (cs[i].st != DEAD) { live = 1; break; }
        if (!live) break;
        double gap = o.rate > 0 && !stopping ? pace(now()) : 0.02;
        struct timespec wait = { 0, gap > 0 ? (long)(gap * 1e9) : 0 };
        int n = epoll_pwait2(ep, ev, 512, &wait, NULL);
        for (int i = 0; i < n; i++) if (ev[i].data.ptr == &listener) accept_all(ls); else on_ready(ev[i].data.ptr, ev[i].events);
    }
    return report(argv[1]) ? 1 : 0;
}
