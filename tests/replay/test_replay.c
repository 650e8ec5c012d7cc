/* Journals made by hand, replayed: a run that comes no further is made all the same; what a peer's journal has is asked for, compared,
 * and given to the machine like any frame. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <sodium.h>
#include <xxhash.h>
#include <cmocka.h>

#include "replay/replay.h"

#define MEMORY (64u << 20)
#define CODE   0x2345000u

static struct ft_machine *guest(void)
{
	static const uint8_t code[] = {0xeb, 0xfe}; /* jmp $ */
	struct ft_machine_config config = {.memory = MEMORY, .clock = FT_CLOCK_FREE, .mac = {0x52, 0x54, 0, 1, 2, 3}, .disk_fd = -1,
					   .engine = &ft_engine_soft, .engine_options = {.cache_bytes = 3u << 20}};
	struct ft_error err = {0};
	struct ft_machine *m = ft_machine_create(&config, &err);
	uint64_t entry = 0x3000000 | 7;
	assert_non_null(m);
	/* 1 GiB mapped to itself by 2 MiB pages. */
	memcpy(m->ram.base + 0x2ffe000, &(uint64_t){0x2fff007}, 8);
	memcpy(m->ram.base + 0x2fff000, &entry, 8);
	for (uint64_t i = 0; i < 512; i++)
		memcpy(m->ram.base + 0x3000000 + 8 * i, &(uint64_t){i << 21 | 0x87}, 8);
	memcpy(m->ram.base + CODE, code, sizeof(code));
	struct ft_cpu_state s = {.rip = CODE, .rflags = 2, .cr0 = 0x80050033, .cr3 = 0x2ffe000, .cr4 = 0x6a0, .efer = 0xd01,
				 .dr = {[6] = 0xffff0ff0, [7] = 0x400}, .pat = 0x0007040600070406};
	for (unsigned i = 0; i < FT_SEGMENTS; i++)
		s.segment[i] = (struct ft_segment){.limit = 0xffffffff, .selector = 0x18, .attributes = 0xc093};
	s.segment[FT_CS] = (struct ft_segment){.limit = 0xffffffff, .selector = 0x10, .attributes = 0xa09b};
	assert_int_equal(m->engine_ops->set(m->engine, &s, &err), 0);
	return m;
}

struct made {
	int checkpoint, segment;
	struct ft_journal journal;
	struct ft_replay replay;
	unsigned runs, runs_at[16];
	const uint8_t *frame;
	size_t length;
	unsigned asked;
};

static void after(void *context, enum ft_stop stop, uint64_t wake)
{
	struct made *made = context;
	if (made->runs < 16)
		made->runs_at[made->runs] = (unsigned)made->replay.m->icount;
	made->runs++;
}

static void open_made(struct made *made, const struct ft_record *records, size_t count)
{
	static uint8_t control[4096];
	struct ft_snapshot_about about = {.guest = "web", .created_ns = 1};
	struct ft_snapshot_told told;
	struct ft_segment_header header = {.run = 1, .number = 1, .memory = MEMORY, .mac = {0x52, 0x54, 0, 1, 2, 3}, .clock = FT_CLOCK_FREE, .guest = "web"};
	struct ft_segment_writer writer;
	struct ft_segment_chunk chunk;
	struct ft_record_state state = {0};
	struct ft_error err = {0};
	size_t n = 0;
	*made = (struct made){.checkpoint = memfd_create("checkpoint", MFD_CLOEXEC), .segment = memfd_create("segment", MFD_CLOEXEC)};
	struct ft_machine *m = guest();
	if (ft_snapshot_save(m, &about, made->checkpoint, NULL, &told, &err))
		fail_msg("%s", err.text);
	ft_machine_destroy(m);
	for (size_t i = 0; i < count; i++)
		n += ft_record_encode(&state, &records[i], control + n);
	assert_int_equal(ft_segment_writer_open(&writer, &err), 0);
	assert_int_equal(ft_segment_begin(&writer, dup(made->segment), &header, NULL, &err), 0);
	assert_int_equal(ft_segment_put(&writer, control, (uint32_t)n, NULL, 0, records[count - 1].icount, n, &chunk, &err), 0);
	ft_segment_writer_close(&writer);
	struct ft_journal_files files = {.segments = {made->segment}, .count = 1, .ring = -1};
	struct ft_machine_config config = {.engine = &ft_engine_soft, .engine_options = {.cache_bytes = 3u << 20}};
	made->replay = (struct ft_replay){.context = made, .after = after};
	assert_int_equal(ft_journal_open(&made->journal, &files, &err), 0);
	if (ft_replay_create(&made->replay, &config, &made->journal, -1, &err) || ft_replay_restore(&made->replay, made->checkpoint, &err))
		fail_msg("%s", err.text);
}

static void close_made(struct made *made)
{
	ft_replay_close(&made->replay);
	ft_journal_close(&made->journal);
	close(made->checkpoint);
	close(made->segment);
}

static const struct ft_replay_limits far = {.icount = UINT64_MAX, .vtime_ns = UINT64_MAX};

static void a_run_that_comes_no_further_is_made(void **state)
{
	const struct ft_record records[] = {{.kind = FT_RECORD_CHECKPOINT, .value = 1},
					    {.kind = FT_RECORD_STOP, .where = FT_WHERE_COUNT, .icount = 1000},
					    {.kind = FT_RECORD_STOP, .where = FT_WHERE_SAME, .icount = 1000},
					    {.kind = FT_RECORD_STOP, .where = FT_WHERE_COUNT, .icount = 1000},
					    {.kind = FT_RECORD_STOP, .where = FT_WHERE_COUNT, .icount = 2000},
					    {.kind = FT_RECORD_END, .where = FT_WHERE_SAME, .icount = 2000}};
	struct made made;
	struct ft_error err = {0};
	open_made(&made, records, sizeof(records) / sizeof(*records));
	if (ft_replay_run(&made.replay, &far, &err) != FT_REPLAY_OVER)
		fail_msg("%s", err.text);
	assert_int_equal(made.runs, 3);
	assert_int_equal(made.runs_at[0], 1000);
	assert_int_equal(made.runs_at[1], 1000);
	assert_int_equal(made.runs_at[2], 2000);
	close_made(&made);
}

/* ---- Frames of peers ------------------------------------------------------------------------------------------------ */

static int fetch(void *context, const struct ft_record_peer *peer, uint64_t number, const uint8_t **bytes, size_t *length, struct ft_error *err)
{
	struct made *made = context;
	made->asked++;
	assert_string_equal(peer->guest, "near");
	assert_int_equal(peer->run, 3);
	assert_int_equal(peer->segment, 5);
	assert_int_equal(number, 41);
	*bytes = made->frame;
	*length = made->length;
	return made->frame ? 0 : ft_error_set(err, -ENODATA, "guest near never sent it");
}

static void frames_of_peers_are_fetched_and_compared(void **state)
{
	static const struct ft_record_peer peer = {.run = 3, .segment = 5, .guest = "near"};
	static uint8_t right[100] = {1, 2, 3}, wrong[100] = {1, 2, 4};
	uint32_t check = (uint32_t)XXH3_64bits(right, sizeof(right));
	const struct ft_record records[] = {{.kind = FT_RECORD_CHECKPOINT, .value = 1},
					    {.kind = FT_RECORD_PEER, .where = FT_WHERE_COUNT, .icount = 1000, .value = 7, .data = (const uint8_t *)&peer, .length = sizeof(peer)},
					    {.kind = FT_RECORD_FRAME_FROM, .where = FT_WHERE_SAME, .icount = 1000, .peer = 7, .value = 41,
					     .data = (const uint8_t *)&check, .length = 4},
					    {.kind = FT_RECORD_END, .where = FT_WHERE_COUNT, .icount = 2000}};
	const struct {
		const uint8_t *frame;
		bool fetches;
		enum ft_replay_end end;
		const char *says;
	} cases[] = {{right, true, FT_REPLAY_OVER, NULL},
		     {wrong, true, FT_REPLAY_DIVERGED, "is another one in its replay"},
		     {NULL, true, FT_REPLAY_FAILED, "never sent it"},
		     {NULL, false, FT_REPLAY_FAILED, "refers to that of guest near"}};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct made made;
		struct ft_error err = {0};
		open_made(&made, records, sizeof(records) / sizeof(*records));
		made.frame = cases[i].frame;
		made.length = sizeof(right);
		made.replay.fetch = cases[i].fetches ? fetch : NULL;
		made.replay.fetch_context = &made;
		assert_int_equal(ft_replay_run(&made.replay, &far, &err), cases[i].end);
		assert_int_equal(made.asked, cases[i].fetches);
		assert_int_equal(made.replay.frames_in, cases[i].end == FT_REPLAY_OVER);
		if (cases[i].says)
			assert_non_null(strstr(err.text, cases[i].says));
		close_made(&made);
	}
}

int main(void)
{
	if (sodium_init() < 0)
		return 1;
	const struct CMUnitTest tests[] = {cmocka_unit_test(a_run_that_comes_no_further_is_made), cmocka_unit_test(frames_of_peers_are_fetched_and_compared)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
