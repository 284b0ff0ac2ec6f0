/* SPDX-License-Identifier: Apache-2.0 */
/* Raw TCP throughput between two hosts, for bench/netlab: `receive PORT` prints the bits of payload per second that arrive
   from `send ADDRESS PORT`, after a warm-up that leaves out the slow start. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define WARM_UP_SECONDS 0.4
#define MEASURED_SECONDS 0.8
#define WAIT_SECONDS 10 /* longest wait for the other side */

static char buffer[256 * 1024];

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int fail(const char *what)
{
    fprintf(stderr, "throughput: %s: %s\n", what, strerror(errno));
    return 1;
}

/* Counts what arrives in the measured interval; returns payload bits a second, or a negative number. */
static double measure(int connection)
{
    double  start = now(), begin = 0, end = 0, bits = 0;
    ssize_t bytes;

    while ((bytes = read(connection, buffer, sizeof buffer)) > 0) {
        end = now();
        if (begin > 0) {
            bits += 8 * (double)bytes;
        } else if (end - start >= WARM_UP_SECONDS) {
            begin = end; /* what came with this read belongs to the warm-up */
        }
        if (begin > 0 && end - begin >= MEASURED_SECONDS) {
            return bits / (end - begin);
        }
    }
    return -1;
}

static int receive_from_anyone(in_port_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct timeval     wait = {.tv_sec = WAIT_SECONDS};
    int                listener = socket(AF_INET, SOCK_STREAM, 0), on = 1, connection;
    double             rate;

    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait) != 0 ||
        bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 1) != 0) {
        return fail("cannot listen");
    }
    connection = accept(listener, NULL, NULL);
    if (connection < 0 || setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait) != 0) {
        return fail("nobody connected");
    }
    rate = measure(connection);
    if (rate < 0) {
        return fail("the sender stopped");
    }
    printf("%.0f\n", rate);
    return 0;
}

/* Connects, with patience for a receiver that is still starting, and sends until the receiver hangs up. */
static int send_to(const char *name, in_port_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    double             start = now();
    int                connection;

    if (inet_pton(AF_INET, name, &address.sin_addr) != 1) {
        fprintf(stderr, "throughput: '%s' is not an IPv4 address\n", name);
        return 2;
    }
    for (;;) {
        connection = socket(AF_INET, SOCK_STREAM, 0);
        if (connection < 0) {
            return fail("no socket");
        }
        if (connect(connection, (struct sockaddr *)&address, sizeof address) == 0) {
            break;
        }
        if (now() - start > WAIT_SECONDS) {
            return fail("cannot connect");
        }
        close(connection);
        usleep(20000);
    }
    signal(SIGPIPE, SIG_IGN);
    while (write(connection, buffer, sizeof buffer) > 0) {
    }
    return 0;
}

static int read_port(const char *text, in_port_t *port_out)
{
    char *end;
    long  port = strtol(text, &end, 10);

    if (*text == '\0' || *end != '\0' || port < 1 || port > 65535) {
        fprintf(stderr, "throughput: '%s' is not a port\n", text);
        return 2;
    }
    *port_out = (in_port_t)port;
    return 0;
}

int main(int argc, char **argv)
{
    in_port_t port;

    if (argc == 3 && strcmp(argv[1], "receive") == 0) {
        return read_port(argv[2], &port) != 0 ? 2 : receive_from_anyone(port);
    }
    if (argc == 4 && strcmp(argv[1], "send") == 0) {
        return read_port(argv[3], &port) != 0 ? 2 : send_to(argv[2], port);
    }
    fprintf(stderr, "usage: throughput receive PORT | throughput send ADDRESS PORT\n");
    return 2;
}
