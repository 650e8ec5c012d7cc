#include "replay/peers.h"

#include <dirent.h>
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MARGIN_NS 2000000000u /* a frame was sent so long at most before it came */
#define RUNS	  64u

/* ---- What was sent ------------------------------------------------------------------------------------------------- */

static void drop_oldest(struct ft_replay_peer *p)
{
	struct ft_replay_sent *s = p->sent[p->first++];
	p->bytes -= s->length;
	free(s);
}

static void keep(struct ft_replay_peer *p, const void *frame, size_t length)
{
	while (p->first < p->end && p->bytes + length > FT_REPLAY_PEER_BYTES)
		drop_oldest(p);
	if (p->end == p->room && p->first > p->room / 2) {
		memmove(p->sent, p->sent + p->first, (p->end - p->first) * sizeof(*p->sent));
		p->end -= p->first;
		p->first = 0;
	} else if (p->end == p->room) {
		size_t room = p->room ? 2 * p->room : 4096;
		struct ft_replay_sent **sent = realloc(p->sent, room * sizeof(*sent));
		if (!sent)
			return; /* whoever asks for it is told that it is not there */
		p->sent = sent;
		p->room = room;
	}
	struct ft_replay_sent *s = malloc(sizeof(*s) + length);
	if (!s)
		return;
	*s = (struct ft_replay_sent){.segment = p->replay->segment, .number = p->replay->sent - 1, .length = (uint32_t)length};
	memcpy(s->bytes, frame, length);
	p->sent[p->end++] = s;
	p->bytes += length;
}

/* Frames lie in the order of segment and number. */
static const struct ft_replay_sent *find(const struct ft_replay_peer *p, uint32_t segment, uint64_t number)
{
	size_t low = p->first, high = p->end;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct ft_replay_sent *s = p->sent[middle];
		if (s->segment == segment && s->number == number)
			return s;
		if (s->segment < segment || (s->segment == segment && s->number < number))
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

static void net_tx(void *context, const void *frame, size_t length)
{
	keep(context, frame, length);
}

void ft_replay_peers_sent(struct ft_replay_peers *peers, const struct ft_replay *replay, const void *frame, size_t length)
{
	for (unsigned i = 0; peers->count > 1 && i < peers->count; i++)
		if (peers->list[i].replay == replay)
			keep(&peers->list[i], frame, length);
}

/* ---- Running ------------------------------------------------------------------------------------------------------- */

static bool restore(struct ft_replay_peer *p)
{
	if (p->restored)
		return true;
	p->own.err = &p->error;
	int error = ft_replay_restore(&p->own, p->checkpoint, &p->error);
	sodium_memzero(&p->seal, sizeof(p->seal));
	p->restored = !error;
	return p->restored;
}

/* Until it has sent that frame. */
static int run_to(struct ft_replay_peer *p, uint32_t segment, uint64_t number, struct ft_error *err)
{
	struct ft_replay_limits limits = {.icount = UINT64_MAX, .vtime_ns = UINT64_MAX};
	if (p->busy || p->main)
		return ft_error_set(err, -ELOOP, "the replay of guest %s has not sent frame %llu since its checkpoint %u when another guest had got it",
				    p->guest, (unsigned long long)number, segment);
	if (p->error.code || !restore(p))
		return ft_error_set(err, p->error.code, "the replay of guest %s beside: %.200s", p->guest, p->error.text);
	p->busy = true;
	p->own.wanted_segment = segment;
	p->own.wanted_number = number;
	enum ft_replay_end end = ft_replay_run(&p->own, &limits, &p->error);
	p->busy = false;
	if (p->error.code)
		return ft_error_set(err, p->error.code, "the replay of guest %s beside: %.200s", p->guest, p->error.text);
	return end == FT_REPLAY_LIMIT ? 0
				      : ft_error_set(err, -ENODATA, "the replay of guest %s ends before frame %llu since its checkpoint %u", p->guest,
						     (unsigned long long)number, segment);
}

static int fetch(void *context, const struct ft_record_peer *peer, uint64_t number, const uint8_t **bytes, size_t *length, struct ft_error *err)
{
	struct ft_replay_peers *peers = context;
	unsigned i = 0;
	while (i < peers->count && (strcmp(peers->list[i].guest, peer->guest) || peers->list[i].run != peer->run))
		i++;
	if (i == peers->count)
		return ft_error_set(err, -ENOENT, "the journal refers to that of guest %s (run %u), which is not here: --peer %s=IMAGE", peer->guest, peer->run,
				    peer->guest);
	struct ft_replay_peer *p = &peers->list[i];
	const struct ft_replay_sent *sent = find(p, peer->segment, number);
	if (!sent) {
		int error = run_to(p, peer->segment, number, err);
		if (error)
			return error;
		sent = find(p, peer->segment, number);
	}
	if (!sent)
		return ft_error_set(err, -ENODATA, "frame %llu that guest %s sent since its checkpoint %u is not among those of its replay",
				    (unsigned long long)number, p->guest, peer->segment);
	*bytes = sent->bytes;
	*length = sent->length;
	peers->frames++;
	peers->frame_bytes += sent->length;
	return 0;
}

/* ---- Opening ------------------------------------------------------------------------------------------------------- */

void ft_replay_peers_main(struct ft_replay_peers *peers, struct ft_replay *replay)
{
	struct ft_replay_peer *p = &peers->list[peers->count++];
	const struct ft_segment_header *h = ft_journal_header(replay->journal);
	*p = (struct ft_replay_peer){.peers = peers, .run = h->run, .main = true, .checkpoint = -1, .replay = replay};
	snprintf(p->guest, sizeof(p->guest), "%.31s", h->guest);
	replay->fetch = fetch;
	replay->fetch_context = peers;
}

static int add_run(struct ft_replay_peers *peers, const char *directory, const struct ft_replay_place *place, int disk, const uint8_t *key,
		   struct ft_error *err)
{
	struct ft_replay_peer *p = &peers->list[peers->count];
	struct ft_machine_config config = {.engine = &ft_engine_soft, .disk_fd = -1};
	struct ft_snapshot_header header;
	struct ft_replay_directory d;
	struct ft_journal_files files;
	if (peers->count == FT_REPLAY_PEERS)
		return ft_error_set(err, -E2BIG, "more than %u lives of guests", FT_REPLAY_PEERS);
	*p = (struct ft_replay_peer){.peers = peers, .replay = &p->own};
	int error = ft_replay_directory_open(&d, directory, place, &p->checkpoint, &files, err);
	if (error)
		return error;
	files.key = key;
	error = ft_journal_open(&p->journal, &files, err);
	if (!error)
		error = ft_replay_create(&p->own, &config, &p->journal, disk, err);
	if (!error)
		error = ft_snapshot_peek(p->checkpoint, &header, err);
	if (!error && header.encrypted && key) {
		error = ft_snapshot_unseal(&p->seal, p->checkpoint, key, err);
		p->own.seal = &p->seal;
	}
	ft_replay_directory_close(&d, -1, &files);
	if (error) {
		ft_replay_close(&p->own);
		if (p->journal.count)
			ft_journal_close(&p->journal);
		close(p->checkpoint);
		return error;
	}
	p->run = ft_journal_header(&p->journal)->run;
	snprintf(p->guest, sizeof(p->guest), "%.31s", ft_journal_header(&p->journal)->guest);
	p->own.context = p;
	p->own.net_tx = net_tx;
	p->own.fetch = fetch;
	p->own.fetch_context = peers;
	peers->count++;
	return 0;
}

/* The lives that have checkpoints, and the first of these. */
struct lives {
	uint32_t run[RUNS], first[RUNS];
	unsigned count;
};

static void list_lives(const char *directory, struct lives *lives)
{
	DIR *list = opendir(directory);
	*lives = (struct lives){0};
	for (struct dirent *e; list && (e = readdir(list));) {
		unsigned run, number, i = 0;
		char made[64];
		if (sscanf(e->d_name, "%u-%u", &run, &number) != 2)
			continue;
		snprintf(made, sizeof(made), FT_JOURNAL_CHECKPOINT, run, number);
		if (strcmp(made, e->d_name))
			continue;
		while (i < lives->count && lives->run[i] != run)
			i++;
		if (i == RUNS)
			continue;
		if (i == lives->count) {
			lives->run[lives->count++] = run;
			lives->first[i] = number;
		} else if (number < lives->first[i]) {
			lives->first[i] = number;
		}
	}
	if (list)
		closedir(list);
}

int ft_replay_peers_add(struct ft_replay_peers *peers, const char *directory, uint64_t wall_ns, int disk, const uint8_t *key, struct ft_error *err)
{
	struct lives lives;
	unsigned before = peers->count;
	list_lives(directory, &lives);
	err->code = 0;
	while (lives.count) {
		unsigned newest = 0;
		for (unsigned i = 1; i < lives.count; i++)
			newest = lives.run[i] > lives.run[newest] ? i : newest;
		struct ft_replay_place place = {.run = lives.run[newest], .icount = UINT64_MAX, .wall_ns = wall_ns > MARGIN_NS ? wall_ns - MARGIN_NS : 0};
		int error = add_run(peers, directory, &place, disk, key, err);
		/* One that went on at that time; those before it are not needed. */
		if (!error)
			return 0;
		if (error == -ENOENT) {
			/* It began later. */
			place = (struct ft_replay_place){
			    .run = lives.run[newest], .checkpoint = lives.first[newest], .icount = UINT64_MAX, .wall_ns = UINT64_MAX};
			error = add_run(peers, directory, &place, disk, key, err);
		}
		if (error && error != -ENOENT)
			return error;
		lives.run[newest] = lives.run[--lives.count];
		lives.first[newest] = lives.first[lives.count];
	}
	if (peers->count == before)
		return ft_error_set(err, -ENOENT, "%s has no checkpoint that this could be replayed from", directory);
	err->code = 0;
	return 0;
}

void ft_replay_peers_close(struct ft_replay_peers *peers)
{
	for (unsigned i = 0; i < peers->count; i++) {
		struct ft_replay_peer *p = &peers->list[i];
		while (p->first < p->end)
			drop_oldest(p);
		free(p->sent);
		if (p->main)
			continue;
		ft_replay_close(&p->own);
		ft_journal_close(&p->journal);
		close(p->checkpoint);
	}
	peers->count = 0;
}
