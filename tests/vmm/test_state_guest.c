/* A stock Debian guest that serves HTTP goes from machine to machine by way of its saved state, while it computes hashes and
 * holds a TCP connection open: it answers the same bytes, and ends as the same machine, as one that stayed where it was.
 * Skips when the image has not been built. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <unistd.h>
#include <cmocka.h>

#include "guest_run.h"
#include "vmm/dev/devices.h"
#include "vmm/state/image.h"

#define SLICE    2000000u
#define SLICE_NS 20000000u  /* an idle guest's instructions take long */
#define QUIET_NS 400000000u /* an answer is whole when nothing came for so long */
#define FRAMES   512u
#define REQUESTS 4u
#define ANSWERS  (1u << 20)
#define LAST     800u /* characters of a console that are shown when all went wrong */

/* The saving engine's name in a state: it tells, and may differ. See state.md. */
#define ENGINE_AT     (24u + 16u + 16u)
#define ENGINE_LENGTH 16u
#define CHECKSUM_LENGTH 8u

static char image[512];

/* The peer on the wire: ARP, and one TCP connection. */
struct client {
	struct ft_machine *m;
	struct ft_machine_config config;
	uint8_t frame[FRAMES][1514];
	size_t length[FRAMES];
	unsigned frames, lost;
	bool open, reset;
	uint32_t sequence, acknowledged;
	char *answer;
	size_t answered;
	uint64_t heard_ns; /* virtual time at which something came last */
	unsigned moves;
	bool across; /* from engine to engine with each */
	bool seldom; /* ever more seldom in the course of an answer */
	char *log;   /* of the console */
	size_t logged;
	uint64_t random;
};

static const uint8_t own_mac[6] = {2, 0x46, 0x54, 0, 0, 9}, guest_mac[6] = {0x52, 0x54, 0, 0, 2, 15};

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

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint32_t sum(uint32_t s, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		s += i & 1 ? p[i] : (uint32_t)p[i] << 8;
	return s;
}

static unsigned fold(uint32_t s)
{
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return ~s & 0xffff;
}

static void send_tcp(struct client *c, uint8_t flags, const char *bytes)
{
	uint8_t f[600] = {0};
	size_t length = strlen(bytes);
	memcpy(f, guest_mac, 6);
	memcpy(f + 6, own_mac, 6);
	put16(f + 12, 0x0800);
	f[14] = 0x45;
	put16(f + 16, (unsigned)(40 + length));
	f[20] = 0x40;
	f[22] = 64;
	f[23] = 6;
	put32(f + 26, 0x0a000209);
	put32(f + 30, 0x0a00020f);
	put16(f + 24, fold(sum(0, f + 14, 20)));
	put16(f + 34, 40000);
	put16(f + 36, 80);
	put32(f + 38, c->sequence);
	put32(f + 42, c->acknowledged);
	f[46] = 0x50;
	f[47] = flags;
	put16(f + 48, 0xffff);
	memcpy(f + 54, bytes, length);
	put16(f + 50, fold(sum(sum(0, f + 26, 8) + 6 + 20 + (uint32_t)length, f + 34, 20 + length)));
	c->sequence += (uint32_t)length + ((flags & 2) != 0);
	ft_machine_input(c->m, FT_INPUT_FRAME, 0, f, 54 + length < 60 ? 60 : 54 + length);
}

static void take_arp(struct client *c, const uint8_t *f)
{
	uint8_t reply[60] = {0};
	if (f[21] != 1 || get32(f + 38) != 0x0a000209)
		return;
	memcpy(reply, f + 6, 6);
	memcpy(reply + 6, own_mac, 6);
	memcpy(reply + 12, f + 12, 8);
	reply[21] = 2;
	memcpy(reply + 22, own_mac, 6);
	memcpy(reply + 28, f + 38, 4);
	memcpy(reply + 32, f + 22, 10);
	ft_machine_input(c->m, FT_INPUT_FRAME, 0, reply, sizeof(reply));
}

static void take_tcp(struct client *c, const uint8_t *f)
{
	size_t header = (size_t)(f[46] >> 4) * 4, length = ((size_t)f[16] << 8 | f[17]) - 20 - header;
	uint32_t sequence = get32(f + 38);
	c->heard_ns = ft_machine_vtime(c->m);
	if (f[47] & 4)
		c->reset = true;
	if (f[47] & 2) {
		c->acknowledged = sequence + 1;
		c->open = true;
		send_tcp(c, 16, "");
	} else if (length && sequence == c->acknowledged && c->answered + length < ANSWERS) {
		memcpy(c->answer + c->answered, f + 34 + header, length);
		c->answered += length;
		c->acknowledged += (uint32_t)length;
		send_tcp(c, 16, "");
	}
}

static void net_tx(void *context, const void *frame, size_t length)
{
	struct client *c = context;
	if (c->frames == FRAMES || length > sizeof(c->frame[0])) {
		c->lost++;
		return;
	}
	memcpy(c->frame[c->frames], frame, length);
	c->length[c->frames++] = length;
}

static void console(void *context, const char *bytes, size_t length)
{
	struct client *c = context;
	for (size_t i = 0; i < length && c->logged < ANSWERS; i++)
		c->log[c->logged++] = bytes[i];
}

static void entropy(void *context, size_t wanted)
{
	struct client *c = context;
	uint8_t bytes[256];
	size_t n = wanted < sizeof(bytes) ? wanted : sizeof(bytes);
	for (size_t i = 0; i < n; i++)
		bytes[i] = (uint8_t)((c->random = c->random * 6364136223846793005u + 1442695040888963407u) >> 56);
	ft_machine_input(c->m, FT_INPUT_ENTROPY, 0, bytes, n);
}

/* The section of a state, and the place in it, that byte `at` lies in: state.md. */
static void tell_difference(const uint8_t *a, const uint8_t *b, size_t length)
{
	size_t at = 0, section = 24;
	while (at < length && a[at] == b[at])
		at++;
	for (uint64_t size; section + 16 <= at; section += 16 + ((size + 7) & ~7ull)) {
		uint32_t tag;
		memcpy(&tag, a + section, sizeof(tag));
		memcpy(&size, a + section + 8, sizeof(size));
		if (at < section + 16 + size)
			printf("section %u differs at byte %zu\n", tag, at - section - 16);
	}
}

/* Into a new machine, as what a snapshot would carry: state, RAM, written blocks. */
static void move(struct client *c)
{
	struct ft_error err = {0};
	uint8_t *bytes, *again;
	size_t length, length_again;
	struct ft_machine *from = c->m;
	if (c->across)
		c->config.engine = c->config.engine == &ft_engine_soft ? &ft_engine_kvm : &ft_engine_soft;
	struct ft_machine *to = ft_machine_create(&c->config, &err);
	if (!to || ft_state_save(from, &bytes, &length, &err))
		fail_msg("%s", err.text);
	memcpy(to->ram.base, from->ram.base, from->ram.size);
	const uint8_t *block;
	for (uint64_t n = 0; ft_disk_next(&from->devices->blk.disk, &n, &block) > 0; n++)
		assert_int_equal(ft_disk_write(&to->devices->blk.disk, &to->ram, n * FT_DISK_BLOCK, block, FT_DISK_BLOCK), 0);
	if (ft_state_restore(to, bytes, length, &err))
		fail_msg("%s", err.text);
	/* Into the kernel, and out of it again. */
	struct ft_run_limits none = {.icount = to->icount, .vtime_ns = UINT64_MAX};
	if (to->engine_ops->hosted && (to->engine_ops->run(to->engine, none.icount) != FT_EXIT_COUNT))
		fail_msg("%s", to->error.text);
	if (ft_state_save(to, &again, &length_again, &err))
		fail_msg("%s", err.text);
	if (c->across)
		memcpy(again + ENGINE_AT, bytes + ENGINE_AT, ENGINE_LENGTH); /* who saved it */
	assert_int_equal(length, length_again);
	/* The checksum at the end is over that name, too. */
	if (memcmp(bytes, again, length - (c->across ? CHECKSUM_LENGTH : 0)))
		tell_difference(bytes, again, length);
	assert_memory_equal(bytes, again, length - (c->across ? CHECKSUM_LENGTH : 0));
	free(bytes);
	free(again);
	to->backend = from->backend;
	ft_machine_destroy(from);
	c->m = to;
	c->moves++;
}

static void slice(struct client *c, bool moving)
{
	uint64_t count = c->m->engine_ops->advance ? UINT64_MAX : c->m->icount + SLICE;
	struct ft_run_limits limits = {.icount = count, .vtime_ns = ft_machine_vtime(c->m) + SLICE_NS};
	enum ft_stop stop = ft_machine_run(c->m, &limits, NULL);
	if (stop != FT_STOP_COUNT && stop != FT_STOP_VTIME)
		fail_msg("the machine stopped (%d): %s; its console: %s", stop, c->m->error.text, c->log + (c->logged > LAST ? c->logged - LAST : 0));
	unsigned frames = c->frames;
	for (unsigned i = 0; i < frames; i++) {
		const uint8_t *f = c->frame[i];
		if (c->length[i] >= 42 && f[12] == 8 && f[13] == 6)
			take_arp(c, f);
		else if (c->length[i] >= 54 && f[12] == 8 && f[13] == 0 && f[23] == 6 && get32(f + 30) == 0x0a000209)
			take_tcp(c, f);
	}
	c->frames = 0;
	if (moving)
		move(c);
}

/* Seldom: behind slices 4, 8, 16, ..., so it meets whatever the guest does, on a processor where that takes milliseconds and on an emulated
 * one, which moves would have for themselves otherwise. */
static bool moves_behind(const struct client *c, unsigned n)
{
	return c->seldom ? n >= 3 && !(n & (n + 1)) : n % 7 == 3;
}

/* Until the guest has said nothing for a while; in the middle of it every few slices into another machine. */
static void until_quiet(struct client *c, bool moving)
{
	size_t before = c->answered;
	for (unsigned n = 0; n < 4000 && (c->answered == before || ft_machine_vtime(c->m) - c->heard_ns < QUIET_NS); n++)
		slice(c, moving && moves_behind(c, n));
	assert_true(c->answered > before);
	assert_false(c->reset);
}

static const char *const usual[REQUESTS] = {
    "GET / HTTP/1.1\r\nHost: guest\r\n\r\n",
    "GET /cgi-bin/lookup?host=localhost%3Bsha256sum+/bin/bash+/usr/sbin/nginx HTTP/1.1\r\nHost: guest\r\n\r\n",
    "GET /nowhere HTTP/1.1\r\nHost: guest\r\n\r\n",
    "GET /cgi-bin/lookup?host=localhost%3Bsha512sum+/bin/bash HTTP/1.1\r\nHost: guest\r\n\r\n",
};

/* Each processor alone, and both at once. */
static const char *const on_both[REQUESTS] = {
    "GET / HTTP/1.1\r\nHost: guest\r\n\r\n",
    "GET /cgi-bin/lookup?host=localhost%3Becho+nproc+$(nproc)%3Btaskset+-c+0+sha256sum+/bin/bash HTTP/1.1\r\nHost: guest\r\n\r\n",
    "GET /cgi-bin/lookup?host=localhost%3Btaskset+-c+1+sha256sum+/bin/bash%3Becho+clock+$(cat+/sys/devices/system/clocksource/clocksource0/current_clocksource) HTTP/1.1\r\nHost: guest\r\n\r\n",
    "GET /cgi-bin/lookup?host=localhost%3Bfor+i+in+0+1%3Bdo+taskset+-c+$i+sha256sum+/bin/bash%26done%3Bwait HTTP/1.1\r\nHost: guest\r\n\r\n",
};

static void converse(struct client *c, const char *const requests[REQUESTS], bool moving)
{
	for (unsigned tries = 0; tries < 200 && !c->open; tries++) {
		c->sequence = 1000 + 7919 * tries;
		send_tcp(c, 2, "");
		for (unsigned n = 0; n < 50 && !c->open; n++)
			slice(c, false);
		c->reset = false;
	}
	assert_true(c->open);
	for (unsigned i = 0; i < REQUESTS; i++) {
		send_tcp(c, 24, requests[i]);
		until_quiet(c, moving);
	}
	c->answer[c->answered] = 0;
}

/* tsc_khz: 0, or that of the host, which engine kvm needs; then a guest of one processor that moves goes from engine to engine. */
static void start_model(struct client *c, const struct ft_engine_ops *engine, const struct ft_model *model, uint64_t tsc_khz, unsigned vcpus)
{
	char path[600];
	struct ft_error err = {0};
	size_t kernel_length, initrd_length;
	*c = (struct client){.random = 1, .across = engine->hosted && vcpus == 1};
	c->answer = malloc(ANSWERS + 1);
	c->log = calloc(1, ANSWERS + 1);
	snprintf(path, sizeof(path), "%s/vmlinuz", image);
	void *kernel = guest_file(path, &kernel_length, &err);
	snprintf(path, sizeof(path), "%s/initrd.img", image);
	void *initrd = guest_file(path, &initrd_length, &err);
	snprintf(path, sizeof(path), "%s/root.ext4", image);
	c->config = (struct ft_machine_config){.memory = 256u << 20,
					       .vcpus = vcpus,
					       .clock = FT_CLOCK_FREE,
					       .epoch_ns = 1767225600ull * 1000000000u,
					       .tsc_khz = tsc_khz,
					       .disk_fd = open(path, O_RDONLY | O_CLOEXEC),
					       .engine = engine,
					       .model = model,
					       .kernel = kernel,
					       .kernel_length = kernel_length,
					       .initrd = initrd,
					       .initrd_length = initrd_length,
					       .cmdline = "console=ttyS0 root=/dev/vda rw"};
	memcpy(c->config.mac, guest_mac, 6);
	c->m = ft_machine_create(&c->config, &err);
	if (!c->m || ft_machine_boot(c->m, &c->config, &err))
		fail_msg("%s", err.text);
	c->m->backend = (struct ft_backend){.context = c, .net_tx = net_tx, .console = console, .entropy = entropy};
	free(kernel);
	free(initrd);
}

static void start(struct client *c, const struct ft_engine_ops *engine, uint64_t tsc_khz, unsigned vcpus)
{
	start_model(c, engine, NULL, tsc_khz, vcpus);
}

static void end(struct client *c)
{
	ft_machine_destroy(c->m);
	close(c->config.disk_fd);
	free(c->answer);
	free(c->log);
}

static unsigned count(const char *text, const char *what)
{
	unsigned n = 0;
	while ((text = strstr(text, what))) {
		n++;
		text++;
	}
	return n;
}

static void nothing_noticed(void **state)
{
	static struct client stays, moves;
	start(&stays, &ft_engine_soft, 0, 1);
	converse(&stays, usual, false);
	start(&moves, &ft_engine_soft, 0, 1);
	converse(&moves, usual, true);
	printf("%u moves, %zu bytes of answers, instruction %llu\n", moves.moves, moves.answered,
	       (unsigned long long)moves.m->icount);
	assert_true(moves.moves >= 20);
	assert_int_equal(count(stays.answer, "HTTP/1.1 200 OK"), 3);
	assert_int_equal(count(stays.answer, "HTTP/1.1 404 "), 1);
	assert_int_equal(count(stays.answer, "  /bin/bash"), 2);
	assert_int_equal(stays.answered, moves.answered);
	assert_string_equal(stays.answer, moves.answer);
	assert_int_equal(stays.lost + moves.lost, 0);
	assert_int_equal(stays.m->icount, moves.m->icount);
	assert_true(ft_machine_hash(stays.m) == ft_machine_hash(moves.m));
	end(&stays);
	end(&moves);
}

/* The frequency of this host's TSC by KVM; 0: there is no usable /dev/kvm. */
static uint64_t host_khz(void)
{
	struct ft_error err = {0};
	struct ft_machine_config config = {
	    .memory = FT_RAM_MIN, .disk_fd = -1, .engine = &ft_engine_kvm, .engine_options.host_tsc = true};
	if (access("/dev/kvm", R_OK | W_OK))
		return 0;
	struct ft_machine *m = ft_machine_create(&config, &err);
	if (!m)
		fail_msg("%s", err.text);
	uint64_t khz = m->clock.tsc_khz;
	ft_machine_destroy(m);
	return khz;
}

/* What the time is, is not the same twice: virtual time is the host's on one of the engines. */
static void drop_dates(char *text)
{
	for (char *at = text; (at = strstr(at, "\nDate: ")); at++)
		for (char *c = at + 7; *c && *c != '\r'; c++)
			*c = '-';
}

static void no_engine_noticed(void **state)
{
	static struct client stays, moves;
	uint64_t khz = host_khz();
	if (!khz)
		skip();
	start(&stays, &ft_engine_kvm, khz, 1);
	converse(&stays, usual, false);
	start(&moves, &ft_engine_kvm, khz, 1);
	converse(&moves, usual, true);
	drop_dates(stays.answer);
	drop_dates(moves.answer);
	printf("%u moves from engine to engine\n", moves.moves);
	assert_true(moves.moves >= 10);
	assert_int_equal(stays.answered, moves.answered);
	assert_string_equal(stays.answer, moves.answer);
	assert_int_equal(stays.lost + moves.lost, 0);
	end(&stays);
	end(&moves);
}

static void no_processor_noticed(void **state)
{
	static struct client moves;
	uint64_t khz = host_khz();
	if (!khz)
		skip();
	start(&moves, &ft_engine_kvm, khz, 2);
	moves.seldom = true;
	converse(&moves, on_both, true);
	printf("%u moves with two processors\n", moves.moves);
	/* The processors' counters are never apart, or Linux gives them up. (It calls them "tsc-early" until it has measured their frequency,
	 * for which an access to a device takes too long where that is emulated.) */
	if (!strstr(moves.answer, "nproc 2\n") || !strstr(moves.answer, "clock tsc"))
		fail_msg("%s", moves.answer);
	assert_null(strstr(moves.log, "nstable"));
	assert_null(strstr(moves.log, "rcu: INFO"));
	assert_true(moves.moves >= 10);
	assert_int_equal(count(moves.answer, "HTTP/1.1 200 OK"), 4);
	/* One hash, four times. */
	char *hash = strstr(moves.answer, "  /bin/bash") - 64;
	char line[76] = "";
	memcpy(line, hash, 75);
	assert_int_equal(count(moves.answer, line), 4);
	assert_int_equal(moves.lost, 0);
	end(&moves);
}

/* What a kernel finds out about its processor, in its own words. */
static const char *const on_model[REQUESTS] = {
    "GET / HTTP/1.1\r\nHost: guest\r\n\r\n",
    "GET /cgi-bin/lookup?host=localhost%3Bgrep+.+/sys/devices/system/cpu/vulnerabilities/* HTTP/1.1\r\nHost: guest\r\n\r\n",
    "GET /cgi-bin/lookup?host=localhost%3Bcat+/proc/cpuinfo+/sys/devices/system/clocksource/clocksource0/current_clocksource HTTP/1.1\r\nHost: guest\r\n\r\n",
    "GET /cgi-bin/lookup?host=localhost%3Bsha256sum+/bin/bash HTTP/1.1\r\nHost: guest\r\n\r\n",
};

static void must_say(const char *text, const char *what)
{
	if (!strstr(text, what))
		fail_msg("\"%s\" is not in:\n%s", what, text);
}

static void must_not_say(const char *text, const char *what)
{
	const char *at = strstr(text, what);
	if (at)
		fail_msg("\"%s\": %.300s", what, at);
}

/* A guest of a host's model, on engine soft: its kernel protects itself as on that processor, and serves. */
static void models(void **state)
{
	static const struct ft_model haswell = {.vendor = FT_MODEL_INTEL, .signature = 0x000306c3, .leaf7_edx = 1u << 10 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 31},
				     zen2 = {.vendor = FT_MODEL_AMD, .signature = 0x00830f10, .ext8_ebx = 1u << 12 | 1u << 14 | 1u << 15 | 1u << 24, .ext21_eax = 1u << 2};
	static const struct {
		const struct ft_model *model;
		const char *says[12], *logs;
	} cases[] = {
	    {&haswell,
	     {"meltdown:Mitigation: PTI", "mds:Mitigation: Clear CPU buffers", "spec_store_bypass:Mitigation: Speculative Store Bypass disabled",
	      "spectre_v2:Mitigation: Retpolines", "IBPB: ", "vendor_id\t: GenuineIntel", "model\t\t: 60\n"},
	     "tsc: Detected 2600.000 MHz processor"},
	    {&zen2,
	     {"meltdown:Not affected", "mds:Not affected", "spec_store_bypass:Mitigation: Speculative Store Bypass disabled",
	      "spectre_v2:Mitigation: Retpolines", "IBPB: ", "retbleed:", "vendor_id\t: AuthenticAMD", "cpu family\t: 23\n"},
	     /* The processor's it measures, and the TSC's it is told. */
	     "tsc: Detected 2600.000 MHz TSC"},
	};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		static struct client c;
		start_model(&c, &ft_engine_soft, cases[i].model, 2600000, 1);
		converse(&c, on_model, true);
		if (getenv("FORETASTE_SHOW"))
			printf("%s\n%s\n", c.log, c.answer);
		for (unsigned n = 0; cases[i].says[n]; n++)
			must_say(c.answer, cases[i].says[n]);
		must_say(c.answer, "\ntsc\n");
		must_say(c.log, cases[i].logs);
		assert_int_equal(count(c.answer, "HTTP/1.1 200 OK"), 4);
		assert_int_equal(count(c.answer, "  /bin/bash"), 1);
		must_not_say(c.log, "WARNING");
		must_not_say(c.log, "unchecked MSR");
		must_not_say(c.log, "Firmware Bug");
		assert_true(ft_model_same(&c.m->model, cases[i].model));
		assert_true(c.moves >= 10);
		end(&c);
	}
}

int main(int argc, char **argv)
{
	if (argc > 1) /* only what has "engine" in its name: in a machine where soft is slow */
		cmocka_set_test_filter(argv[1]);
	if (!guest_image("web", image, sizeof(image)))
		return 77;
	const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_noticed), cmocka_unit_test(no_engine_noticed),
					   cmocka_unit_test(no_processor_noticed), cmocka_unit_test(models)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
