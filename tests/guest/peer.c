#include "peer.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FIN 1
#define SYN 2
#define RST 4
#define PSH 8
#define ACK 16

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v & 0xffff);
}

static uint32_t add(uint32_t sum, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
	return sum;
}

static uint16_t fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

void peer_open(struct peer *p, struct stand *s, uint16_t port)
{
	memset(p, 0, sizeof(*p));
	p->stand = s;
	memcpy(p->mac, "\x02\x46\x54\x00\x00\x09", 6);
	memcpy(p->guest_mac, (uint8_t[])STAND_MAC, 6);
	p->ip = 0x0a000209;
	p->guest_ip = 0x0a00020f;
	p->port = port;
	p->guest_port = 80;
	p->sequence = p->acknowledged = 1000u + port * 7919u;
}

void peer_close(struct peer *p)
{
	free(p->bytes);
	p->bytes = NULL;
}

static void segment(struct peer *p, uint32_t sequence, uint8_t flags, const void *bytes, size_t length,
		    struct stand_frame *frame)
{
	uint8_t *f = frame->bytes;
	memset(f, 0, 54);
	memcpy(f, p->guest_mac, 6);
	memcpy(f + 6, p->mac, 6);
	put16(f + 12, 0x0800);
	f[14] = 0x45;
	put16(f + 16, (unsigned)(40 + length));
	f[20] = 0x40;
	f[22] = 64;
	f[23] = 6;
	put32(f + 26, p->ip);
	put32(f + 30, p->guest_ip);
	put16(f + 24, fold(add(0, f + 14, 20)));
	put16(f + 34, p->port);
	put16(f + 36, p->guest_port);
	put32(f + 38, sequence);
	put32(f + 42, p->received_to);
	f[46] = 0x50;
	f[47] = flags;
	put16(f + 48, 0xffff);
	memcpy(f + 54, bytes, length);
	put16(f + 50, fold(add(add(0, f + 26, 8) + 6 + 20 + (uint32_t)length, f + 34, 20 + length)));
	frame->length = 54 + length;
}

void peer_put(struct peer *p, const struct stand_frame *frame)
{
	struct iovec part = {(void *)frame->bytes, frame->length};
	if (ft_ring_put(&p->stand->link.rx, FT_LINK_FRAME, &part, 1))
		fprintf(stderr, "peer: the ring is full\n");
	ft_ring_kick(&p->stand->link.rx);
}

static void reply(struct peer *p, uint8_t flags)
{
	struct stand_frame frame;
	segment(p, p->sequence, flags, "", 0, &frame);
	peer_put(p, &frame);
}

static void take_arp(struct peer *p, const uint8_t *f, size_t length)
{
	struct stand_frame frame = {.length = 42};
	if (length < 42 || get16(f + 20) != 1 || get32(f + 38) == p->guest_ip)
		return;
	memcpy(frame.bytes, f + 6, 6);
	memcpy(frame.bytes + 6, p->mac, 6);
	memcpy(frame.bytes + 12, f + 12, 8);
	put16(frame.bytes + 20, 2);
	memcpy(frame.bytes + 22, p->mac, 6);
	memcpy(frame.bytes + 28, f + 38, 4);
	memcpy(frame.bytes + 32, f + 22, 10);
	peer_put(p, &frame);
}

static void take_tcp(struct peer *p, const uint8_t *f)
{
	size_t header = (size_t)(f[46] >> 4) * 4, length = get16(f + 16) - 20 - header;
	uint32_t sequence = get32(f + 38);
	uint8_t flags = f[47];
	if (flags & RST) {
		p->reset = true;
		return;
	}
	if (flags & ACK)
		p->acknowledged = get32(f + 42);
	if (flags & SYN) {
		p->received_to = sequence + 1;
		p->sequence = p->acknowledged;
		p->established = true;
		reply(p, ACK);
		return;
	}
	if (sequence == p->received_to && length) {
		p->bytes = realloc(p->bytes, p->length + length + 1);
		memcpy(p->bytes + p->length, f + 34 + header, length);
		p->length += length;
		p->bytes[p->length] = 0;
		p->received_to += (uint32_t)length;
	}
	if ((flags & FIN) && sequence + length == p->received_to && !p->finished) {
		p->finished = true;
		p->received_to++;
		reply(p, FIN | ACK);
		p->sequence++;
	} else if (length || (flags & FIN)) {
		reply(p, ACK);
	}
}

static bool look(struct peer *p)
{
	static uint8_t f[FT_RING_RECORD_MAX];
	uint32_t kind;
	long n = ft_ring_get(&p->stand->link.tx, &kind, f, sizeof(f));
	if (n < 0)
		return false;
	p->frames++;
	if (p->stand->seen)
		p->stand->seen(p->stand->seen_context, f, (size_t)n);
	if (n >= 42 && get16(f + 12) == 0x0806)
		take_arp(p, f, (size_t)n);
	else if (n >= 54 && get16(f + 12) == 0x0800 && f[23] == 6 && get32(f + 30) == p->ip &&
		 get16(f + 36) == p->port)
		take_tcp(p, f);
	return true;
}

void peer_meanwhile(void *peer)
{
	while (look(peer))
		;
}

bool peer_run(struct peer *p, int timeout_ms, bool (*done)(const struct peer *))
{
	struct ft_link *link = &p->stand->link;
	for (int waited = 0; waited < timeout_ms;) {
		if (done && done(p))
			return true;
		if (look(p))
			continue;
		if (ft_ring_sleep(&link->tx)) {
			struct pollfd fd = {.fd = link->wake_own, .events = POLLIN};
			uint64_t value;
			if (poll(&fd, 1, 10) == 0)
				waited += 10;
			else if (read(link->wake_own, &value, sizeof(value)) < 0)
				waited += 10;
		}
		ft_ring_awake(&link->tx);
		stand_message(p->stand, 0);
	}
	return done ? done(p) : true;
}

static bool is_open(const struct peer *p)
{
	return p->established || p->reset;
}

void peer_syn(struct peer *p, struct stand_frame *frame)
{
	segment(p, p->sequence, SYN, "", 0, frame);
}

bool peer_connect(struct peer *p)
{
	for (int tries = 0; tries < 30 && !is_open(p); tries++) {
		struct stand_frame frame;
		peer_syn(p, &frame);
		peer_put(p, &frame);
		peer_run(p, 1000, is_open);
	}
	return p->established && !p->reset;
}

void peer_segment(struct peer *p, const void *bytes, size_t length, struct stand_frame *frame)
{
	segment(p, p->sequence, PSH | ACK, bytes, length, frame);
	p->sequence += (uint32_t)length;
}

static bool is_over(const struct peer *p)
{
	return p->finished || p->reset;
}

bool peer_get(struct stand *s, uint16_t port, const char *path)
{
	struct peer p;
	struct stand_frame frame;
	char request[512];
	peer_open(&p, s, port);
	bool good = peer_connect(&p);
	if (good) {
		int n = snprintf(request, sizeof(request),
				 "GET %s HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n", path);
		peer_segment(&p, request, (size_t)n, &frame);
		peer_put(&p, &frame);
		good = peer_run(&p, STAND_PATIENCE_MS, is_over) && p.length &&
		       !strncmp(p.bytes, "HTTP/1.1 200", 12);
	}
	if (!good)
		fprintf(stderr, "GET %s: established %d, reset %d, %zu bytes: %.80s\n", path, p.established,
			p.reset, p.length, p.length ? p.bytes : "");
	peer_close(&p);
	return good;
}

struct ft_trial_flow peer_flow(const struct peer *p, uint32_t from, uint32_t bytes, uint32_t frames)
{
	struct ft_trial_flow flow = {.frames = frames,
				     .bytes = bytes,
				     .client_ip = ft_address_v4(&(uint32_t){htonl(p->ip)}),
				     .server_ip = ft_address_v4(&(uint32_t){htonl(p->guest_ip)}),
				     .client_port = htons(p->port),
				     .server_port = htons(p->guest_port),
				     .protocol = 6,
				     .first_sequence = from,
				     .next_sequence = from + bytes,
				     .client_ack = p->received_to,
				     .client_window = 0xffff};
	memcpy(flow.client_mac, p->mac, 6);
	return flow;
}
