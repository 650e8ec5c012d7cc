#include "dataplane/admission.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "dataplane/gate-t.h"

#define MINUTE_NS  60000000000ull
#define SUSPECT_NS MINUTE_NS

/* A batch that is older than this, and than two like the last ones took, does not keep another from beginning. */
#define YOUNG_NS 250000000ull

/* Longer ones do not count as longer: who makes trials slow shall not keep the others waiting for as long as he likes. */
#define TRIAL_MOST_NS 500000000ull

/* While a group could still grow, clones take one part in so many of the time of the processors that clone.parallel stands for.
 * Each trial costs its fork and its horizon, however many are in it, and the live guest needs the processors, too. With 3 to 5
 * parts a closed loop of 32 clients, one request in 20 held, got most done, for trials of 40 to 100 ms; with 2, or 8, a quarter
 * less. */
#define PACE 4u

/* Of one batch, so that it and another fit the command ring. */
#define BATCH_BYTES (3ull << 20)

/* So many full clean batches in a row, and the service's groups may be twice as large. */
#define CALM 4u

static const struct {
	const char *name, *text;
} limits[FT_LIMIT_COUNT] = {
#define X(name_, label, text_) [FT_LIMIT_##name_] = {label, text_},
    FT_LIMITS(X)
#undef X
};

const char *ft_limit_name(enum ft_limit limit)
{
	return (unsigned)limit < FT_LIMIT_COUNT ? limits[limit].name : "none";
}

const char *ft_limit_text(enum ft_limit limit)
{
	return (unsigned)limit < FT_LIMIT_COUNT ? limits[limit].text : "none";
}

/* ---- places ---- */

static void address_of(const struct ft_flow *flow, uint8_t address[16])
{
	memcpy(address, flow->key.client.bytes, 16);
	/* A host has a whole /64 of IPv6 addresses to itself: it is one source. */
	if (!ft_address_is_v4(&flow->key.client))
		memset(address + 8, 0, 8);
}

static struct ft_suspect *suspect_place(struct ft_gate *gate, uint8_t guest, const uint8_t address[16])
{
	return &gate->holds.suspects[XXH3_64bits_withSeed(address, 16, gate->holds.salt + guest) % FT_SUSPECTS];
}

static uint64_t suspect_until(struct ft_gate *gate, uint8_t guest, const uint8_t address[16])
{
	const struct ft_suspect *suspect = suspect_place(gate, guest, address);
	return suspect->guest == guest && !memcmp(suspect->address, address, 16) ? suspect->until : 0;
}

void ft_admission_suspect(struct ft_gate *gate, struct ft_hold *hold)
{
	struct ft_source *source = hold->source;
	source->suspect_until = gate->now + SUSPECT_NS;
	struct ft_suspect *suspect = suspect_place(gate, source->guest, source->address);
	suspect->until = source->suspect_until;
	suspect->guest = source->guest;
	memcpy(suspect->address, source->address, 16);
}

static struct ft_source *find_source(struct ft_gate *gate, uint8_t guest, const uint8_t address[16])
{
	for (struct ft_source *source = gate->holds.sources; source; source = source->next)
		if (source->guest == guest && !memcmp(source->address, address, 16))
			return source;
	struct ft_source *source = calloc(1, sizeof(*source));
	if (!source)
		return NULL;
	source->guest = guest;
	memcpy(source->address, address, 16);
	source->suspect_until = suspect_until(gate, guest, address);
	source->next = gate->holds.sources;
	gate->holds.sources = source;
	return source;
}

int ft_admission_enter(struct ft_gate *gate, struct ft_hold *hold)
{
	uint8_t address[16];
	address_of(hold->flow, address);
	struct ft_source *source = find_source(gate, hold->guest->index, address);
	struct ft_tally *tally = hold->flow->service->tally;
	if (!source)
		return -ENOMEM;
	hold->source = source;
	hold->tally = tally;
	if (!source->open++)
		source->turn = ++gate->holds.turn;
	if (!tally->open++)
		tally->turn = ++gate->holds.turn;
	return 0;
}

static void free_unused(struct ft_gate *gate, struct ft_source *source)
{
	if (source->open || source->clones)
		return;
	for (struct ft_source **at = &gate->holds.sources; *at; at = &(*at)->next)
		if (*at == source) {
			*at = source->next;
			free(source);
			return;
		}
}

void ft_admission_close(struct ft_gate *gate, struct ft_hold *hold)
{
	struct ft_source *source = hold->source;
	source->open--;
	hold->tally->open--;
	hold->source = NULL;
	free_unused(gate, source);
}

/* ---- limits ---- */

enum ft_limit ft_admission_exceeds(const struct ft_gate *gate, const struct ft_hold *hold)
{
	const struct ft_quotas *quotas = &hold->flow->service->quotas;
	const struct ft_tally *tally = hold->tally;
	if (tally->open > quotas->holds)
		return FT_LIMIT_HOLDS;
	if (hold->source->open > quotas->source_holds)
		return FT_LIMIT_SOURCE_HOLDS;
	if (tally->held > quotas->held)
		return FT_LIMIT_HELD;
	return hold->guest->held > gate->holds.memory_most ? FT_LIMIT_GUEST_HELD : FT_LIMIT_COUNT;
}

/* ---- turns ---- */

/* Where there is more than one clone, one address never has them all. */
static uint32_t source_clones(const struct ft_budgets *budgets)
{
	uint32_t most = budgets->most > 1 ? budgets->most - 1 : 1;
	return budgets->source < most ? budgets->source : most;
}

static bool may_have_clone(const struct ft_gate *gate, const struct ft_hold *hold)
{
	return hold->guest->clones < gate->budgets.most &&
	       hold->source->clones < source_clones(&gate->budgets) &&
	       hold->tally->clones < hold->flow->service->quotas.clones;
}

static void add_source(struct ft_batch *batch, struct ft_source *source)
{
	for (unsigned i = 0; i < batch->source_count; i++)
		if (batch->sources[i] == source)
			return;
	batch->sources[batch->source_count++] = source;
	source->clones++;
}

void ft_admission_start(struct ft_gate *gate, struct ft_batch *batch)
{
	batch->started = gate->now;
	if (!batch->members[0]->observed)
		batch->guest->began = gate->now;
	batch->guest->clones++;
	batch->tally->clones++;
	batch->tally->turn = ++gate->holds.turn;
	for (unsigned i = 0; i < batch->count; i++) {
		struct ft_hold *hold = batch->members[i];
		hold->ready = false;
		hold->source->turn = ++gate->holds.turn;
		add_source(batch, hold->source);
	}
}

void ft_admission_leave(struct ft_gate *gate, struct ft_batch *batch)
{
	uint64_t ran = gate->now - batch->started;
	batch->tally->clone_ns += ran;
	if (batch->shadow_of)
		batch->shadow_of->clone_ns += ran;
	batch->guest->clones--;
	batch->tally->clones--;
	for (unsigned i = 0; i < batch->source_count; i++) {
		batch->sources[i]->clones--;
		free_unused(gate, batch->sources[i]);
	}
	batch->source_count = 0;
}

static bool is_before(const struct ft_hold *a, const struct ft_hold *b)
{
	if (a->again != b->again)
		return a->again;
	if (a->tally != b->tally)
		return a->tally->turn < b->tally->turn;
	return a->source != b->source ? a->source->turn < b->source->turn : a->id < b->id;
}

static struct ft_hold *next_hold(const struct ft_gate *gate, const struct ft_guest *guest)
{
	struct ft_hold *next = NULL;
	if (guest->clones >= gate->budgets.most)
		return NULL;
	for (struct ft_hold *hold = gate->holds.first; hold; hold = hold->next)
		if (hold->ready && hold->guest == guest && may_have_clone(gate, hold) &&
		    (!next || is_before(hold, next)))
			next = hold;
	return next;
}

static bool is_reached(struct ft_gate *gate, uint64_t time)
{
	if (gate->now >= time)
		return true;
	if (time < gate->holds.due)
		gate->holds.due = time;
	return false;
}

/* May another batch of this guest begin? What only observes cannot wait, and keeps nobody waiting. */
static bool may_begin(struct ft_gate *gate, const struct ft_guest *guest)
{
	unsigned young = 0;
	uint64_t until = UINT64_MAX, age = guest->trial_ns > YOUNG_NS / 2 ? 2 * guest->trial_ns : YOUNG_NS;
	for (const struct ft_batch *batch = guest->batches; batch; batch = batch->next) {
		if (!batch->count || batch->members[0]->observed || gate->now >= batch->started + age)
			continue;
		young++;
		if (batch->started + age < until)
			until = batch->started + age;
	}
	return young < gate->budgets.parallel || is_reached(gate, until);
}

/* One of so many that has room for more: is it time all the same? For one alone twice as early: nobody else comes. */
static bool may_begin_small(struct ft_gate *gate, const struct ft_guest *guest, unsigned count)
{
	uint64_t rest = guest->trial_ns * PACE / gate->budgets.parallel;
	return is_reached(gate, guest->began + (count > 1 ? rest : rest / 2));
}

/* ---- groups ---- */

/* Would data of the guest on this connection be an answer to what is held? Not while the guest may still have older data to send. */
static bool is_all_received(const struct ft_flow *flow)
{
	return flow->key.protocol != IPPROTO_TCP || flow->stream.client_ack == flow->stream.guest_next;
}

static bool may_have_company(const struct ft_gate *gate, const struct ft_hold *hold)
{
	return is_all_received(hold->flow) && hold->company > 1 && !hold->flow->service->canary && gate->now >= hold->source->suspect_until;
}

/* Each address one, then each a second one, ... */
static int compare_turns(const void *a, const void *b)
{
	const struct ft_hold *one = *(struct ft_hold *const *)a, *other = *(struct ft_hold *const *)b;
	if (one->round != other->round)
		return one->round < other->round ? -1 : 1;
	if (one->source != other->source)
		return one->source->turn < other->source->turn ? -1 : 1;
	return one->id < other->id ? -1 : one->id > other->id;
}

static int compare_numbers(const void *a, const void *b)
{
	const struct ft_hold *one = *(struct ft_hold *const *)a, *other = *(struct ft_hold *const *)b;
	return one->id < other->id ? -1 : one->id > other->id;
}

static bool is_kept_room(struct ft_holds *holds, size_t count)
{
	if (count < holds->waiting_room)
		return true;
	size_t room = holds->waiting_room ? 2 * holds->waiting_room : 256;
	struct ft_hold **more = realloc(holds->waiting, room * sizeof(*more));
	if (!more)
		return false;
	holds->waiting = more;
	holds->waiting_room = room;
	return true;
}

/* Those that could go with the first one, in the order of their turns. */
static size_t find_company(struct ft_gate *gate, const struct ft_hold *first)
{
	size_t count = 0;
	struct ft_holds *holds = &gate->holds;
	for (struct ft_source *source = holds->sources; source; source = source->next)
		source->round = 0;
	first->source->round = 1;
	for (struct ft_hold *hold = holds->first; hold; hold = hold->next) {
		if (!hold->ready || hold == first || hold->tally != first->tally || hold->book != first->book ||
		    !may_have_company(gate, hold) || !may_have_clone(gate, hold))
			continue;
		if (!is_kept_room(holds, count))
			break;
		hold->round = hold->source->round++;
		holds->waiting[count++] = hold;
	}
	if (count)
		qsort(holds->waiting, count, sizeof(*holds->waiting), compare_turns);
	return count;
}

unsigned ft_admission_next(struct ft_gate *gate, const struct ft_guest *guest, struct ft_hold **members)
{
	struct ft_hold *first = next_hold(gate, guest);
	if (!first || !may_begin(gate, guest))
		return 0;
	unsigned count = 1, most = gate->budgets.group;
	if (first->tally->group && first->tally->group < most)
		most = first->tally->group;
	if (first->company < most)
		most = first->company;
	members[0] = first;
	bool grows = most > 1 && may_have_company(gate, first);
	size_t waiting = grows ? find_company(gate, first) : 0;
	uint64_t memory = first->memory;
	uint32_t pieces = first->pieces;
	for (size_t i = 0; i < waiting && count < most; i++) {
		struct ft_hold *hold = gate->holds.waiting[i];
		if (hold->company <= count || pieces + hold->pieces > FT_TRIAL_FRAMES ||
		    memory + hold->memory > BATCH_BYTES) {
			grows = false;
			continue;
		}
		memory += hold->memory;
		pieces += hold->pieces;
		if (hold->company < most)
			most = hold->company;
		members[count++] = hold;
	}
	if (grows && count < most && !first->again && !may_begin_small(gate, guest, count))
		return 0;
	qsort(members, count, sizeof(*members), compare_numbers);
	return count;
}

/* What the last ones took counts for less and less. */
static void learn_time(const struct ft_gate *gate, const struct ft_batch *batch)
{
	struct ft_guest *guest = batch->guest;
	uint64_t took = gate->now - batch->started;
	if (took > TRIAL_MOST_NS)
		took = TRIAL_MOST_NS;
	guest->trial_ns = guest->trial_ns ? (3 * guest->trial_ns + took) / 4 : took;
}

void ft_admission_learn(const struct ft_gate *gate, const struct ft_batch *batch, bool decided)
{
	struct ft_tally *tally = batch->tally;
	unsigned count = batch->count;
	uint32_t most = gate->budgets.group;
	if (decided && batch->runs == 1 && !batch->members[0]->observed)
		learn_time(gate, batch);
	uint32_t size = tally->group && tally->group < most ? tally->group : most;
	if (!decided && count == 1) {
		tally->calm = 0;
	} else if (!decided) {
		tally->group = size > 1 ? size / 2 : 1;
		tally->calm = 0;
	} else if (size < most && count >= size && ++tally->calm >= CALM) {
		tally->group = 2 * size;
		tally->calm = 0;
	}
}

bool ft_admission_at_once(const struct ft_gate *gate, const struct ft_hold *hold)
{
	for (const struct ft_hold *other = gate->holds.first; other; other = other->next)
		if (other->ready && other->guest == hold->guest && may_have_clone(gate, other))
			return false;
	return may_have_clone(gate, hold);
}

/* ---- the feed ---- */

static void tell_untold(struct ft_gate *gate, const struct ft_service *service)
{
	char text[200];
	snprintf(
	    text, sizeof(text),
	    "%u holds of service %s are not in the feed one by one: it had told %u in a minute (feed_limit)",
	    service->tally->untold, service->name, service->tally->told);
	for (unsigned i = 0; i < gate->guest_count; i++)
		if (i == service->guest_index)
			ft_gate_record(gate, &gate->guests[i], "feed-limit", text, NULL);
	service->tally->untold = 0;
}

static void next_minute(struct ft_gate *gate, const struct ft_service *service)
{
	struct ft_tally *tally = service->tally;
	if (tally->minute == gate->now / MINUTE_NS)
		return;
	if (tally->untold)
		tell_untold(gate, service);
	tally->minute = gate->now / MINUTE_NS;
	tally->told = 0;
}

bool ft_admission_tells(struct ft_gate *gate, const struct ft_hold *hold, bool objected)
{
	const struct ft_service *service = hold->flow->service;
	next_minute(gate, service);
	if (!objected && hold->tally->told >= service->quotas.feed_limit) {
		hold->tally->untold++;
		hold->tally->limits[FT_LIMIT_FEED]++;
		return false;
	}
	hold->tally->told++;
	return true;
}

uint64_t ft_admission_tick(struct ft_gate *gate)
{
	uint64_t due = UINT64_MAX;
	for (size_t i = 0; i < gate->services.count; i++) {
		const struct ft_service *service = &gate->services.list[i];
		next_minute(gate, service);
		if (service->tally->untold)
			due = (gate->now / MINUTE_NS + 1) * MINUTE_NS;
	}
	return due;
}
