/* Power cuts: whatever of the unsynced writes is on the disk afterwards, the guest finds its disk as it was after one of its writes,
 * none of those that it flushed missing and none that came later without those before it. And calls that fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "medium.h"
#include "vmm/dev/disk.h"

#define BLOCKS 256u
#define OPS    4096u

/* What the guest may find: its disk after each of its writes, as a tag a block; 0: the base image's. */
struct model {
	uint64_t (*states)[BLOCKS];
	unsigned count, flushed; /* states; the oldest that may still be found */
	uint64_t tag;
};

struct side {
	struct medium medium;
	struct ft_memory memory; /* only counts */
	struct ft_disk disk;
	bool open;
};

static int base_fd;

static uint64_t random_state = 88172645463325252ull;
static uint64_t draw(uint64_t n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state % n;
}

/* ---- The disk -------------------------------------------------------------------------------------------------------- */

static int open_side(struct side *s, uint64_t retention_ns)
{
	struct ft_error err = {0};
	struct ft_overlay_found found;
	struct ft_overlay_config config = {.fd = dup(s->medium.fd),
					   .read_fd = dup(s->medium.read_fd),
					   .guest = "test",
					   .quota = 5 * FT_SEGMENT_SIZE,
					   .retention_ns = retention_ns,
					   .io = &s->medium.io,
					   .clock = medium_clock};
	memset(&s->memory, 0, sizeof(s->memory));
	assert_int_equal(ft_disk_open(&s->disk, base_fd, &err), 0);
	int error = ft_disk_keep(&s->disk, &config, &found, &err);
	s->open = !error;
	if (error) {
		close(config.fd);
		close(config.read_fd);
		ft_disk_close(&s->disk);
	}
	return error;
}

static void close_side(struct side *s)
{
	if (s->open)
		ft_disk_close(&s->disk);
	medium_close(&s->medium);
}

static void fill(uint8_t *to, uint64_t tag, uint32_t count)
{
	for (uint32_t i = 0; i < count * FT_DISK_BLOCK / 8; i++)
		memcpy(to + i * 8, &tag, 8);
}

static uint64_t tag_of(struct side *s, unsigned block)
{
	uint8_t bytes[FT_DISK_BLOCK], same[FT_DISK_BLOCK];
	uint64_t tag;
	assert_int_equal(ft_disk_read(&s->disk, block * FT_DISK_BLOCK, bytes, sizeof(bytes)), 0);
	memcpy(&tag, bytes, 8);
	fill(same, tag, 1);
	assert_memory_equal(bytes, same, sizeof(bytes)); /* no block is of two writes */
	return tag;
}

/* ---- What is done to it ------------------------------------------------------------------------------------------------- */

static void begin_model(struct model *m)
{
	m->states = calloc(OPS, sizeof(*m->states));
	assert_non_null(m->states);
	m->count = 1;
	m->flushed = 0;
	m->tag = 1;
}

static uint64_t *next_state(struct model *m)
{
	assert_true(m->count < OPS);
	memcpy(m->states[m->count], m->states[m->count - 1], sizeof(*m->states));
	return m->states[m->count++];
}

/* One record's worth. Whether the write was taken or not, it may be found. */
static void write_some(struct side *s, struct model *m, uint64_t *state)
{
	static uint8_t bytes[64 * FT_DISK_BLOCK];
	uint32_t count = 1 + (uint32_t)draw(draw(4) ? 4 : 64);
	uint64_t block = draw(BLOCKS - count + 1), tag = m->tag++;
	bool zero = !draw(6);
	for (uint32_t i = 0; i < count; i++)
		state[block + i] = zero ? 0 : tag;
	if (zero) {
		ft_disk_zero(&s->disk, &s->memory, tag, block * FT_DISK_BLOCK, count * FT_DISK_BLOCK);
		return;
	}
	fill(bytes, tag, count);
	struct iovec parts[2] = {{.iov_base = bytes, .iov_len = 512}, {.iov_base = bytes + 512, .iov_len = count * FT_DISK_BLOCK - 512}};
	ft_disk_writev(&s->disk, &s->memory, tag, block * FT_DISK_BLOCK, parts, 2);
}

static void restore_some(struct side *s, struct model *m)
{
	uint64_t *state = next_state(m);
	memset(state, 0, sizeof(*m->states));
	if (ft_disk_reset(&s->disk, 0))
		return;
	for (uint64_t n = draw(5); n; n--)
		write_some(s, m, state);
	if (!s->disk.failure && !ft_disk_commit(&s->disk, 0))
		m->flushed = m->count - 1;
}

static void do_something(struct side *s, struct model *m, bool restores)
{
	medium_now += 1000000;
	switch (draw(restores ? 20 : 10)) {
	case 0:
	case 1:
		if (!ft_disk_flush(&s->disk) && !ft_disk_flushed(&s->disk))
			m->flushed = m->count - 1;
		break;
	case 2:
	case 3:
		for (int i = 0; i < 40 && ft_overlay_work(&s->disk.overlay, 65536, UINT64_MAX, 0); i++)
			;
		break;
	case 19:
		restore_some(s, m);
		break;
	default:
		write_some(s, m, next_state(m));
	}
}

/* The disk is one that may be found; the model goes on from there. */
static void check(struct side *s, struct model *m)
{
	uint64_t found[BLOCKS];
	for (unsigned i = 0; i < BLOCKS; i++)
		found[i] = tag_of(s, i);
	for (unsigned n = m->count; n-- > m->flushed;)
		if (!memcmp(found, m->states[n], sizeof(found))) {
			m->count = n + 1;
			/* Recovery has made durable what it found. */
			m->flushed = n;
			return;
		}
	fail_msg("the disk is none that was (of %u to %u)", m->flushed, m->count);
}

/* ---- Cuts ---------------------------------------------------------------------------------------------------------------- */

struct pattern {
	unsigned kind;
	uint64_t limit, seed;
};

static bool there(void *context, uint64_t write, uint64_t sector)
{
	struct pattern *p = context;
	switch (p->kind) {
	case 0: /* everything up to a sector in the middle of something */
		return p->limit && p->limit--;
	case 1: /* all but one */
		return p->limit-- != 0;
	case 2: /* any, a write as a whole or not at all: the last ones as likely as the first */
		return (write * 0x9e3779b97f4a7c15ull + p->seed) >> 63;
	default: /* any sectors */
		return ((write << 20 | sector) * 0x9e3779b97f4a7c15ull ^ p->seed) * 0xbf58476d1ce4e5b9ull >> 62 != 0;
	}
}

/* As often as that: some writes, a cut, and again on what is left. */
static void cut_often(unsigned cuts, unsigned most, uint64_t retention_ns, bool restores)
{
	struct side *s = malloc(sizeof(*s)), *after = malloc(sizeof(*after));
	struct model m;
	begin_model(&m);
	medium_open(&s->medium, true);
	assert_int_equal(open_side(s, retention_ns), 0);
	for (unsigned i = 0; i < cuts; i++) {
		struct pattern p = {.kind = (unsigned)draw(4), .limit = draw(draw(2) ? 40 : 4000), .seed = draw(UINT64_MAX)};
		for (uint64_t n = 1 + draw(most); n; n--)
			do_something(s, &m, restores);
		medium_cut(&s->medium, &after->medium, draw(16) ? there : NULL, &p);
		close_side(s);
		memcpy(s, after, sizeof(*s));
		s->medium.io.context = &s->medium;
		assert_int_equal(open_side(s, retention_ns), 0);
		check(s, &m);
		/* All that happened before is behind us: the model begins anew. */
		memcpy(m.states[0], m.states[m.count - 1], sizeof(*m.states));
		m.count = 1;
		m.flushed = 0;
	}
	close_side(s);
	free(s);
	free(after);
	free(m.states);
}

static void flushed_writes_survive(void **state)
{
	cut_often(150, 12, 3600000000000ull, true);
}

/* Enough writes for segments to fill, be compacted and be used again. */
static void compaction_loses_nothing(void **state)
{
	cut_often(12, 1500, 1000000, true);
}

/* The file ends at each record, and inside of each. */
static void cut_file(void **state)
{
	struct side s, after;
	struct model m;
	uint64_t ends[200], sequences[200];
	unsigned counts[200], n = 0;
	begin_model(&m);
	medium_open(&s.medium, true);
	assert_int_equal(open_side(&s, 0), 0);
	for (; n < 60; n++) {
		write_some(&s, &m, next_state(&m));
		if (n % 7 == 6)
			assert_int_equal(ft_disk_flush(&s.disk), 0);
		ends[n] = ft_segment_at(s.disk.overlay.open) + s.disk.overlay.segments[s.disk.overlay.open].used;
		sequences[n] = s.disk.overlay.sync.done;
		counts[n] = m.count;
	}
	for (unsigned i = 0; i + 1 < n; i++)
		for (int where = 0; where < 5; where++) {
			uint64_t length = ends[i + 1] - ends[i], offsets[5] = {0, 1, 50, 104, length - 1};
			uint64_t end = ends[i] + (offsets[where] < length ? offsets[where] : length - 1);
			struct model then = m;
			medium_open(&after.medium, false);
			uint8_t *bytes = malloc(end);
			assert_int_equal(ft_overlay_pread(s.medium.read_fd, bytes, end, 0), end);
			assert_int_equal(write(after.medium.fd, bytes, end), end);
			free(bytes);
			assert_int_equal(open_side(&after, 0), 0);
			then.flushed = then.count = counts[i];
			then.flushed--;
			check(&after, &then); /* exactly what the whole records say */
			assert_true(after.disk.overlay.sequence >= sequences[i]);
			close_side(&after);
		}
	close_side(&s);
	free(m.states);
}

/* ---- Failures ------------------------------------------------------------------------------------------------------------- */

/* The n-th call fails: the guest is told at the latest when it flushes, and what it was told is durable is. */
static void each_call_fails(void **state)
{
	for (unsigned kind = 0; kind < 3; kind++)
		for (uint64_t at = 1; at < 120; at++) {
			struct side s, after;
			struct model m;
			struct pattern p = {.kind = 3, .seed = at};
			random_state = 4711 + at;
			begin_model(&m);
			medium_open(&s.medium, true);
			s.medium.fail_at = at;
			s.medium.failure = kind == 1 ? -ENOSPC : -EIO;
			s.medium.torn = kind == 2;
			if (!open_side(&s, 0)) {
				for (unsigned n = 0; n < 60; n++)
					do_something(&s, &m, false);
				/* The guest goes on seeing what it wrote. */
				for (unsigned i = 0; i < BLOCKS; i++)
					assert_true(tag_of(&s, i) == m.states[m.count - 1][i]);
				/* Room that comes back is used; a disk that failed once is not believed again. */
				int settled = ft_disk_settle(&s.disk, &s.memory, 0);
				assert_int_equal(settled, s.disk.overlay.broken ? -EIO : 0);
				if (!settled && !ft_disk_flush(&s.disk))
					m.flushed = m.count - 1;
			}
			medium_cut(&s.medium, &after.medium, there, &p);
			close_side(&s);
			assert_int_equal(open_side(&after, 0), 0);
			check(&after, &m);
			close_side(&after);
			free(m.states);
		}
}

/* ---- Damage ----------------------------------------------------------------------------------------------------------------- */

/* What was durable and is not what it was is no crash: it is said, and nothing is thrown away. */
static void damage_is_no_crash(void **state)
{
	struct side s, after;
	struct model m;
	begin_model(&m);
	medium_open(&s.medium, false);
	assert_int_equal(open_side(&s, 0), 0);
	uint64_t places[40];
	for (unsigned n = 0; n < 40; n++) {
		places[n] = ft_segment_at(0) + (n ? s.disk.overlay.segments[0].used : 0);
		write_some(&s, &m, next_state(&m));
		if (n == 30)
			assert_int_equal(ft_disk_flush(&s.disk), 0);
	}
	struct stat st;
	fstat(s.medium.fd, &st);
	uint8_t *bytes = malloc((size_t)st.st_size);
	assert_int_equal(ft_overlay_pread(s.medium.read_fd, bytes, (size_t)st.st_size, 0), st.st_size);
	for (unsigned n = 0; n < 40; n++)
		for (unsigned where = 0; where < 3; where++) {
			uint64_t at = places[n] + (where == 0 ? 3 : where == 1 ? 44 : 100);
			bytes[at] ^= 0x10;
			medium_open(&after.medium, false);
			assert_int_equal(write(after.medium.fd, bytes, (size_t)st.st_size), st.st_size);
			assert_int_equal(open_side(&after, 0), n <= 30 ? -EBADMSG : 0);
			/* Refused, it is as it was. */
			uint8_t *again = malloc((size_t)st.st_size);
			assert_int_equal(ft_overlay_pread(after.medium.read_fd, again, (size_t)st.st_size, 0), st.st_size);
			if (n <= 30)
				assert_memory_equal(bytes, again, (size_t)st.st_size);
			free(again);
			close_side(&after);
			bytes[at] ^= 0x10;
		}
	free(bytes);
	close_side(&s);
	free(m.states);
}

static int make_base(void **state)
{
	base_fd = memfd_create("base", MFD_CLOEXEC);
	return base_fd < 0 || ftruncate(base_fd, BLOCKS * FT_DISK_BLOCK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(flushed_writes_survive), cmocka_unit_test(compaction_loses_nothing), cmocka_unit_test(cut_file),
	    cmocka_unit_test(each_call_fails),	      cmocka_unit_test(damage_is_no_crash),
	};
	return cmocka_run_group_tests(tests, make_base, NULL);
}
