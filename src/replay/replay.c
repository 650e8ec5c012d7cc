#include "replay/replay.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "clone/transcript.h"
#include "vmm/dev/devices.h"
#include "vmm/dev/generation.h"
#include "vmm/dev/virtio_net.h"

/* ---- What is around the machine ------------------------------------------------------------------------------------ */

static void net_tx(void *context, const void *frame, size_t length)
{
	struct ft_replay *r = context;
	r->sent++;
	if (r->net_tx)
		r->net_tx(r->context, frame, length);
}

static void console(void *context, const char *bytes, size_t length)
{
	struct ft_replay *r = context;
	if (r->console)
		r->console(r->context, bytes, length);
}

static void diverged(struct ft_replay *r, const char *what, const struct ft_record *record)
{
	ft_error_set(r->err, -EILSEQ, "the replay differs from what was recorded between instruction %llu and %llu: %s",
		     (unsigned long long)r->checked, (unsigned long long)record->icount, what);
}

static int give(struct ft_replay *r, const struct ft_record *record)
{
	if (r->record)
		r->record(r->context, record);
	r->inputs++;
	r->frames_in += record->kind == FT_INPUT_FRAME;
	/* What the recorded guest's card did not take, this one's does not take either. */
	int error = ft_machine_input(r->m, record->kind, record->value, record->data, record->length);
	return error == -EINVAL ? error : 0;
}

/* The guest asks for random numbers: those that it got then. */
static void entropy(void *context, size_t wanted)
{
	struct ft_replay *r = context;
	while (wanted && !r->err->code) {
		const struct ft_record *record = ft_journal_peek(r->journal, 0, r->err);
		/* It was killed while it asked, or got none. */
		if (!record || record->where != FT_WHERE_INSIDE || record->icount != r->m->icount || record->kind != FT_INPUT_ENTROPY)
			return;
		wanted -= record->length < wanted ? record->length : wanted;
		if (give(r, record))
			diverged(r, "entropy that is none", record);
		ft_journal_take(r->journal);
	}
}

/* ---- Opening ----------------------------------------------------------------------------------------------------- */

static void no_marks(struct ft_machine *m)
{
	ft_memory_mark(&m->ram);
	m->engine_ops->observe(m->engine);
}

int ft_replay_create(struct ft_replay *r, struct ft_machine_config *config, struct ft_journal *journal, int disk, struct ft_error *err)
{
	const struct ft_segment_header *h = ft_journal_header(journal);
	if (h->has_disk && disk < 0)
		return ft_error_set(err, -EINVAL, "the guest had a disk: its base image is needed");
	config->memory = h->memory;
	config->clock = h->clock;
	config->mtu = h->mtu;
	config->disk_fd = h->has_disk ? disk : -1;
	memcpy(config->mac, h->mac, sizeof(config->mac));
	r->journal = journal;
	r->m = ft_machine_create(config, err);
	return r->m ? 0 : err->code;
}

int ft_replay_create_kept(struct ft_replay *r, struct ft_machine_config *config, int snapshot, int disk, struct ft_error *err)
{
	struct ft_snapshot_header h;
	struct ft_transcript_machine made;
	int error = ft_snapshot_peek(snapshot, &h, err);
	if (error)
		return error;
	_Static_assert(sizeof(made) == sizeof(h.origin), "it has its place");
	memcpy(&made, h.origin, sizeof(made));
	if (made.clock > FT_CLOCK_FREE || h.memory < FT_RAM_MIN || h.memory > FT_RAM_MAX || h.memory % FT_PAGE_SIZE ||
	    (made.mtu && (made.mtu < 68 || made.mtu > FT_NET_MTU_MAX)))
		return ft_error_set(err, -EBADMSG, "this is no snapshot of a seed");
	if (h.disk_size && disk < 0)
		return ft_error_set(err, -EINVAL, "the guest had a disk: its base image is needed");
	config->memory = h.memory;
	config->clock = (enum ft_clock_mode)made.clock;
	config->mtu = made.mtu;
	config->disk_fd = h.disk_size ? disk : -1;
	memcpy(config->mac, made.mac, sizeof(config->mac));
	r->m = ft_machine_create(config, err);
	return r->m ? 0 : err->code;
}

int ft_replay_fill(struct ft_replay *r, struct ft_error *err)
{
	if (!r->load.m)
		return 0;
	ft_memory_fetch_all(&r->m->ram);
	if (r->m->error.code) {
		*err = r->m->error;
		return err->code;
	}
	ft_snapshot_loaded(&r->load);
	return 0;
}

static int begin(struct ft_replay *r)
{
	r->m->backend = (struct ft_backend){.context = r, .net_tx = net_tx, .console = console, .entropy = entropy};
	r->checked = r->slice_end = r->m->icount;
	no_marks(r->m);
	return 0;
}

int ft_replay_restore(struct ft_replay *r, int checkpoint, struct ft_error *err)
{
	const struct ft_segment_header *h = r->journal ? ft_journal_header(r->journal) : NULL;
	struct ft_snapshot_header saved;
	int error = ft_snapshot_peek(checkpoint, &saved, err);
	if (error)
		return error;
	if (h && strncmp(saved.guest, h->guest, sizeof(saved.guest)))
		return ft_error_set(err, -EINVAL, "the checkpoint and the journal are not of one guest");
	error = ft_snapshot_restore(&r->load, r->m, checkpoint, r->seal, err);
	if (error || !h)
		return error ? error : begin(r);
	const struct ft_record *first = ft_journal_peek(r->journal, 0, err);
	if (!first)
		return err->code ? err->code : ft_error_set(err, -EBADMSG, "the journal is empty");
	if (first->kind != FT_RECORD_CHECKPOINT || first->icount != r->m->icount)
		return ft_error_set(err, -EBADMSG, "the journal does not begin where the checkpoint was saved (instruction %llu)",
				    (unsigned long long)r->m->icount);
	r->segment = (uint32_t)first->value;
	r->sent = 0;
	ft_journal_take(r->journal);
	return begin(r);
}

void ft_replay_close(struct ft_replay *r)
{
	if (r->load.m)
		ft_snapshot_loaded(&r->load);
	ft_machine_destroy(r->m);
	r->m = NULL;
}

/* ---- Running ------------------------------------------------------------------------------------------------------- */

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* One run of the machine as it was recorded: a slice, or the part of one up to `until`. */
static enum ft_stop run(struct ft_replay *r, uint64_t until, const struct ft_replay_limits *limits)
{
	if (r->m->icount >= r->slice_end)
		r->slice_end = r->m->icount + FT_RECORD_SLICE;
	struct ft_run_limits to = {.icount = least(least(r->slice_end, until), limits->icount), .vtime_ns = limits->vtime_ns};
	uint64_t wake = UINT64_MAX;
	if (r->before)
		r->before(r->context);
	enum ft_stop stop = ft_machine_run(r->m, &to, &wake);
	if (r->after)
		r->after(r->context, stop, wake);
	return stop;
}

static bool has_sent(const struct ft_replay *r)
{
	return r->wanted_segment && (r->segment > r->wanted_segment || (r->segment == r->wanted_segment && r->sent > r->wanted_number));
}

static bool at_limit(const struct ft_replay *r, const struct ft_replay_limits *limits)
{
	return has_sent(r) || r->m->icount >= limits->icount || ft_machine_vtime(r->m) >= limits->vtime_ns;
}

static enum ft_replay_end fail(struct ft_replay *r)
{
	return r->err->code == -EILSEQ ? FT_REPLAY_DIVERGED : FT_REPLAY_FAILED;
}

/* Runs up to where the record belongs. */
static enum ft_replay_end reach(struct ft_replay *r, const struct ft_record *record, const struct ft_replay_limits *limits)
{
	struct ft_machine *m = r->m;
	uint64_t icount = record->icount;
	bool halt = record->where == FT_WHERE_HALT, halted = false, end = record->kind == FT_RECORD_END;
	struct ft_record place = *record;
	/* The recorded machine was run here, too, though it came no further: a timer that was due has fired before what comes next. */
	bool no_further = record->where == FT_WHERE_COUNT && m->icount == icount;
	while (halt ? !halted : no_further || m->icount < icount) {
		no_further = false;
		if (at_limit(r, limits))
			return FT_REPLAY_LIMIT;
		enum ft_stop stop = run(r, halt ? UINT64_MAX : icount, limits);
		if (r->err->code)
			return fail(r);
		switch (stop) {
		case FT_STOP_COUNT:
		case FT_STOP_VTIME:
		case FT_STOP_KICKED:
			break;
		case FT_STOP_IDLE:
			halted = true;
			break;
		case FT_STOP_RESET:
			if (end && m->icount == icount)
				return FT_REPLAY_RESET;
			diverged(r, "state of cpu (the guest is reset)", &place);
			return FT_REPLAY_DIVERGED;
		case FT_STOP_ERROR:
			ft_error_set(r->err, -EIO, "the engine stopped at instruction %llu: %s", (unsigned long long)m->icount, m->error.text);
			return FT_REPLAY_FAILED;
		}
		if (m->icount > icount || (halted && m->icount != icount)) {
			diverged(r, halted ? "state of cpu (the guest rests elsewhere)" : "state of cpu (the guest does not rest)", &place);
			return FT_REPLAY_DIVERGED;
		}
		if (halted && !halt)
			break;
	}
	if (m->icount != icount) {
		diverged(r, "state of cpu (an input came elsewhere)", &place);
		return FT_REPLAY_DIVERGED;
	}
	return FT_REPLAY_OVER;
}

static void begin_segment(struct ft_replay *r, const struct ft_record *record)
{
	r->segment = (uint32_t)record->value;
	r->sent = 0;
}

static enum ft_replay_end compare(struct ft_replay *r, const struct ft_record *record)
{
	bool written = record->kind == FT_RECORD_CHECK_WRITTEN;
	uint64_t hash[FT_COMPONENT_COUNT];
	uint8_t bytes[FT_CHECK_WRITTEN_BYTES];
	char names[256], text[320];
	ft_machine_components(r->m, written, hash);
	if (written)
		ft_record_check_written(hash, bytes);
	else
		ft_record_check(hash, bytes);
	ft_record_difference(written, bytes, record->data, names, sizeof(names));
	if (*names) {
		snprintf(text, sizeof(text), "state of %s", names);
		diverged(r, text, record);
		return FT_REPLAY_DIVERGED;
	}
	r->checks++;
	r->checked = record->icount;
	if (written)
		no_marks(r->m);
	return FT_REPLAY_OVER;
}

/* What came from a guest whose journal has it. */
static enum ft_replay_end apply_reference(struct ft_replay *r, const struct ft_record *record)
{
	struct ft_record frame = {.kind = FT_INPUT_FRAME, .where = record->where, .icount = record->icount};
	const struct ft_record_peer *peer = &r->peers[record->peer];
	size_t length;
	uint32_t check;
	int error = r->fetch ? r->fetch(r->fetch_context, peer, record->value, &frame.data, &length, r->err)
			     : ft_error_set(r->err, -ENOENT, "the journal refers to that of guest %s, which is not here", peer->guest);
	if (error)
		return fail(r);
	memcpy(&check, record->data, sizeof(check));
	if ((uint32_t)XXH3_64bits(frame.data, length) != check) {
		ft_error_set(r->err, -EILSEQ, "frame %llu that guest %s sent since its checkpoint %u is another one in its replay (instruction %llu)",
			     (unsigned long long)record->value, peer->guest, peer->segment, (unsigned long long)record->icount);
		return FT_REPLAY_DIVERGED;
	}
	frame.length = (uint32_t)length;
	if (!give(r, &frame))
		return FT_REPLAY_OVER;
	diverged(r, "an input that cannot be", record);
	return FT_REPLAY_DIVERGED;
}

static enum ft_replay_end apply(struct ft_replay *r, const struct ft_record *record)
{
	switch (record->kind) {
	case FT_RECORD_PEER:
		memcpy(&r->peers[record->value], record->data, sizeof(r->peers[0]));
		return FT_REPLAY_OVER;
	case FT_RECORD_FRAME_FROM:
		return apply_reference(r, record);
	case FT_RECORD_CHECK:
	case FT_RECORD_CHECK_WRITTEN:
		if (r->trusting)
			return FT_REPLAY_OVER;
		return compare(r, record);
	case FT_RECORD_STOP:
		return FT_REPLAY_OVER;
	case FT_RECORD_CHECKPOINT:
		begin_segment(r, record);
		/* The machine that was saved here forgot, too. */
		ft_machine_forget(r->m);
		no_marks(r->m);
		return FT_REPLAY_OVER;
	case FT_RECORD_TRIAL:
		return r->trial && r->trial(r->context, record) ? FT_REPLAY_LIMIT : FT_REPLAY_OVER;
	case FT_RECORD_END:
		r->over = true;
		return FT_REPLAY_OVER;
	default:
		if (!give(r, record))
			return FT_REPLAY_OVER;
		diverged(r, "an input that cannot be", record);
		return FT_REPLAY_DIVERGED;
	}
}

#define BEYOND_MAX 1000000000ull /* instructions */

/* Behind the last record: as far as the recorded machine is known to have come, which took no input. */
static enum ft_replay_end run_on(struct ft_replay *r, const struct ft_replay_limits *limits)
{
	/* A recorded machine leaves something behind more often than that, whatever its ring says. */
	uint64_t until = least(r->journal->progress, r->m->icount + BEYOND_MAX);
	while (!r->over && r->m->icount < until) {
		if (at_limit(r, limits))
			return FT_REPLAY_LIMIT;
		enum ft_stop stop = run(r, until, limits);
		if (r->err->code)
			return fail(r);
		if (stop == FT_STOP_RESET)
			return FT_REPLAY_RESET;
		if (stop == FT_STOP_ERROR) {
			ft_error_set(r->err, -EIO, "the engine stopped: %s", r->m->error.text);
			return FT_REPLAY_FAILED;
		}
		if (stop == FT_STOP_IDLE)
			break;
	}
	return FT_REPLAY_OVER;
}

enum ft_replay_end ft_replay_run(struct ft_replay *r, const struct ft_replay_limits *limits, struct ft_error *err)
{
	r->err = err;
	err->code = 0;
	for (;;) {
		if (at_limit(r, limits))
			return FT_REPLAY_LIMIT;
		/* The next one that is not for the machine to fetch while it runs. */
		size_t ahead = 0;
		const struct ft_record *record;
		while ((record = ft_journal_peek(r->journal, ahead, err)) && record->where == FT_WHERE_INSIDE)
			ahead++;
		if (!record)
			return err->code ? FT_REPLAY_FAILED : run_on(r, limits);
		struct ft_record copy = *record;
		if (copy.kind == FT_RECORD_CHECKPOINT && copy.icount != r->m->icount) {
			ft_error_set(err, -ENODATA, "the journal has a gap from instruction %llu to %llu, where checkpoint %llu is",
				     (unsigned long long)r->m->icount, (unsigned long long)copy.icount, (unsigned long long)copy.value);
			return FT_REPLAY_FAILED;
		}
		enum ft_replay_end end = r->reached ? FT_REPLAY_OVER : reach(r, &copy, limits);
		if (end != FT_REPLAY_OVER)
			return end;
		/* All that came inside has been asked for, or it was not this run. */
		record = ft_journal_peek(r->journal, 0, err);
		if (!record)
			return FT_REPLAY_FAILED;
		if (record->where == FT_WHERE_INSIDE) {
			diverged(r, "state of rng (the guest did not ask for what it got)", record);
			return FT_REPLAY_DIVERGED;
		}
		/* What it was given behind that may come from whoever waits for it. */
		r->reached = has_sent(r);
		if (r->reached)
			return FT_REPLAY_LIMIT;
		end = apply(r, record);
		if (end != FT_REPLAY_OVER && end != FT_REPLAY_LIMIT)
			return end;
		r->slice_end = r->m->icount;
		ft_journal_take(r->journal);
		if (end == FT_REPLAY_LIMIT)
			return end;
	}
}

/* ---- Going live ---------------------------------------------------------------------------------------------------- */

struct alone {
	struct ft_replay *r;
	uint8_t key[crypto_stream_chacha20_KEYBYTES];
	uint64_t nonce;
};

static void alone_net(void *context, const void *frame, size_t length)
{
	net_tx(((struct alone *)context)->r, frame, length);
}

static void alone_console(void *context, const char *bytes, size_t length)
{
	console(((struct alone *)context)->r, bytes, length);
}

static void alone_entropy(void *context, size_t wanted)
{
	struct alone *a = context;
	uint8_t bytes[256], nonce[crypto_stream_chacha20_NONCEBYTES];
	_Static_assert(sizeof(nonce) == sizeof(a->nonce), "64-bit nonce");
	while (wanted) {
		size_t n = wanted < sizeof(bytes) ? wanted : sizeof(bytes);
		memcpy(nonce, &a->nonce, sizeof(nonce));
		a->nonce++;
		crypto_stream_chacha20(bytes, n, nonce, a->key);
		if (ft_machine_input(a->r->m, FT_INPUT_ENTROPY, 0, bytes, n))
			return;
		wanted -= n;
	}
}

enum ft_replay_end ft_replay_go_live(struct ft_replay *r, uint64_t seed, const struct ft_replay_limits *limits, struct ft_error *err)
{
	struct ft_machine *m = r->m;
	struct alone alone = {.r = r};
	enum ft_replay_end end = FT_REPLAY_LIMIT;
	err->code = 0;
	crypto_generichash(alone.key, sizeof(alone.key), (const uint8_t *)&seed, sizeof(seed), NULL, 0);
	m->clock.mode = FT_CLOCK_FREE;
	/* Another machine from here on, which its guest is told. */
	uint8_t id[FT_GENERATION_BYTES];
	crypto_generichash(id, sizeof(id), alone.key, sizeof(alone.key), NULL, 0);
	ft_machine_input(m, FT_INPUT_GENERATION, 0, id, sizeof(id));
	m->backend = (struct ft_backend){.context = &alone, .net_tx = alone_net, .console = alone_console, .entropy = alone_entropy};
	for (bool going = true; going && !at_limit(r, limits);) {
		struct ft_run_limits to = {.icount = least(limits->icount, m->icount + FT_RECORD_SLICE), .vtime_ns = limits->vtime_ns};
		switch (ft_machine_run(m, &to, NULL)) {
		case FT_STOP_IDLE: /* nothing will ever happen again */
			end = FT_REPLAY_OVER;
			going = false;
			break;
		case FT_STOP_RESET:
			end = FT_REPLAY_RESET;
			going = false;
			break;
		case FT_STOP_ERROR:
			ft_error_set(err, -EIO, "the engine stopped: %s", m->error.text);
			end = FT_REPLAY_FAILED;
			going = false;
			break;
		default:
			break;
		}
	}
	m->backend = (struct ft_backend){.context = r, .net_tx = net_tx, .console = console, .entropy = entropy};
	return end;
}
