#include "guest/recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#include "clone/hygiene.h"
#include "journal/scribe.h"

#define MANY  (1u << 20) /* bytes in the ring for which the scribe is woken */
#define SPARE (4u << 20) /* more than comes between two looks at the ring */
#define GRACE_MS 3000    /* for what the scribe still has to write */

static const struct ft_confine_rule rules[] = {
    {"read", "the eventfd that wakes it"},
    {"poll", "waits"},
    {"ppoll", "poll of newer libcs"},
    {"recvmsg", "the next segment's descriptor"},
    {"recvfrom", "is the recorder still there"},
    {"sendmsg", "chunk hashes for the supervisor"},
    {"write", "a segment; the eventfd of whoever waits; last words on stderr"},
    {"fdatasync", "a chunk is on disk before the ring lets go of it"},
    {"ftruncate", "a chunk that could not be written whole"},
    {"close", "segments that are over"},
    {"prctl", "not to die with the vmm", .arg = 1, .equals = PR_SET_PDEATHSIG},
    {"clock_gettime", "where the vDSO cannot"},
    {"getrandom", "malloc"},
    {"mmap", "malloc; never executable", .arg = 3, .mask = PROT_EXEC, .equals = 0},
    {"munmap", "malloc"},
    {"mremap", "malloc"},
    {"brk", "malloc"},
    {"madvise", "malloc gives memory back"},
    {"futex", "libc's locks"},
    {"restart_syscall", "a poll that was interrupted"},
    {"rt_sigreturn", "signals' ends"},
    {"exit_group", "the end"},
};

/* ---- The scribe's process ------------------------------------------------------------------------------------------ */

static int be_scribe(const struct ft_recorder *r, const struct ft_recorder_config *config, const struct ft_confine_filter *filter,
		     int orders, pid_t parent)
{
	int keep[FT_HYGIENE_KEEP] = {r->wake, orders, config->channel, STDERR_FILENO, r->done};
	struct ft_error err = {0};
	struct ft_scribe scribe = {.ring = (struct ft_journal_ring *)&r->ring,
				   .header = config->header,
				   .wake = r->wake,
				   .done = r->done,
				   .orders = orders,
				   .channel = config->channel};
	prctl(PR_SET_NAME, "journal");
	/* It outlives the vmm until what that left in the ring is written; the end of `orders` tells it. */
	if (ft_confine_identity(config->uid, config->gid, FT_CONFINE_UNDUMPABLE, &err) ||
	    ft_hygiene_become(filter, parent, keep, FT_HYGIENE_KEEP) || prctl(PR_SET_PDEATHSIG, 0))
		return 2;
	return ft_scribe_run(&scribe, &err) ? 3 : 0;
}

int ft_recorder_open(struct ft_recorder *r, const struct ft_recorder_config *config, struct ft_error *err)
{
	struct ft_confine_filter filter = {0};
	int pair[2] = {-1, -1};
	*r = (struct ft_recorder){.hold = config->hold,
				  .commits = config->commits,
				  .stamps = config->stamps,
				  .run = config->header.run,
				  .check_every = config->check_every ? config->check_every : FT_RECORDER_CHECK_EVERY,
				  .orders = -1,
				  .wake = -1,
				  .done = -1};
	int error = ft_journal_ring_open(&r->ring, config->ring, true, err);
	if (!error && config->seal)
		error = ft_journal_ring_unseal(&r->ring, config->seal, err);
	if (!error)
		error = ft_confine_compile(rules, sizeof(rules) / sizeof(*rules), &filter, err);
	if (error)
		return error;
	/* A fork of ours must not write into it. */
	r->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->done = config->commits ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : -1;
	if (r->wake < 0 || (config->commits && r->done < 0) || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
		error = ft_error_set(err, -errno, "the journal cannot be begun: %s", strerror(errno));
		ft_confine_filter_free(&filter);
		return error;
	}
	pid_t self = getpid();
	r->scribe = fork();
	if (r->scribe == 0) {
		close(pair[0]);
		_exit(be_scribe(r, config, &filter, pair[1], self));
	}
	if (r->scribe < 0)
		error = ft_error_set(err, -errno, "the journal cannot be begun: %s", strerror(errno));
	ft_journal_ring_private(&r->ring);
	ft_confine_filter_free(&filter);
	close(pair[1]);
	r->orders = pair[0];
	return error;
}

/* ---- Records ----------------------------------------------------------------------------------------------------- */

static void kick(struct ft_recorder *r)
{
	uint64_t one = 1;
	r->kicked = r->ring.head;
	if (write(r->wake, &one, sizeof(one)) < 0)
		return; /* it looks by itself once a second */
}

static void put(struct ft_recorder *r, struct ft_record *record)
{
	uint8_t control[FT_RECORD_CONTROL_MAX];
	if (!r->recording)
		return;
	if (r->inside)
		record->where = FT_WHERE_INSIDE;
	else if (!r->ran || record->kind == FT_RECORD_CHECKPOINT)
		record->where = FT_WHERE_SAME;
	else if (r->halted)
		record->where = FT_WHERE_HALT;
	else if (record->icount == r->state.boundary + FT_RECORD_SLICE)
		record->where = FT_WHERE_SLICE;
	else
		record->where = FT_WHERE_COUNT;
	size_t n = ft_record_encode(&r->state, record, control);
	bool payload = ft_record_has_payload(record);
	if (!ft_journal_ring_put(&r->ring, control, n, payload ? record->data : NULL, payload ? record->length : 0)) {
		/* One that is missing makes all that follow worthless. */
		r->recording = false;
		r->lost = true;
		r->gaps++;
		return;
	}
	r->records++;
	if (!r->inside)
		r->ran = r->halted = false;
	if (r->ring.head - r->kicked >= MANY)
		kick(r);
}

/* ---- Frames of peers -------------------------------------------------------------------------------------------------- */

bool ft_recorder_stamp(struct ft_recorder *r, const void *frame, size_t length, struct ft_link_stamp *stamp)
{
	if (!r->stamps || !r->recording)
		return false;
	*stamp = (struct ft_link_stamp){.run = r->run, .segment = r->segment, .number = r->sent++, .hash = XXH3_64bits(frame, length)};
	return true;
}

bool ft_recorder_refers(const struct ft_recorder *r, const struct ft_link_stamp *stamp, const void *frame, size_t length)
{
	return r->stamps && r->recording && stamp->guest[0] && !stamp->guest[sizeof(stamp->guest) - 1] && stamp->run && stamp->segment &&
	       stamp->number <= INT64_MAX && stamp->hash == XXH3_64bits(frame, length);
}

/* The number that this segment has for the peer, told before it is used. */
static unsigned number_of(struct ft_recorder *r, uint64_t icount, const struct ft_link_stamp *stamp)
{
	struct ft_record_peer peer = {.run = stamp->run, .segment = stamp->segment};
	unsigned i = 0;
	memcpy(peer.guest, stamp->guest, sizeof(peer.guest));
	while (i < r->peer_count && memcmp(r->peers[i].guest, peer.guest, sizeof(peer.guest)))
		i++;
	if (i == FT_RECORD_PEERS || (i < r->peer_count && !memcmp(&r->peers[i], &peer, sizeof(peer))))
		return i;
	r->peer_count += i == r->peer_count;
	r->peers[i] = peer;
	put(r, &(struct ft_record){.kind = FT_RECORD_PEER, .icount = icount, .value = i, .data = (const uint8_t *)&peer, .length = sizeof(peer)});
	return i;
}

/* False: it has to be kept by value. */
static bool refer(struct ft_recorder *r, uint64_t icount, size_t length)
{
	const struct ft_link_stamp *stamp = r->reference;
	unsigned peer = number_of(r, icount, stamp);
	if (peer == FT_RECORD_PEERS || !r->recording || stamp->number < r->state.peers[peer].next)
		return false;
	uint32_t check = (uint32_t)stamp->hash;
	put(r, &(struct ft_record){.kind = FT_RECORD_FRAME_FROM, .peer = (uint8_t)peer, .icount = icount, .value = stamp->number,
				   .data = (const uint8_t *)&check, .length = sizeof(check)});
	r->referred++;
	r->referred_bytes += length;
	return true;
}

static void journal(void *context, uint64_t icount, enum ft_input_kind kind, uint64_t value, const void *data, size_t length)
{
	struct ft_recorder *r = context;
	if (kind == FT_INPUT_FRAME && r->reference && r->recording && refer(r, icount, length))
		return;
	struct ft_record record = {
	    .kind = (uint8_t)kind, .icount = icount, .value = value, .data = data, .length = (uint32_t)length};
	put(r, &record);
}

static void check(struct ft_recorder *r, bool written)
{
	uint64_t hash[FT_COMPONENT_COUNT];
	uint8_t bytes[FT_CHECK_WRITTEN_BYTES];
	struct ft_record record = {.kind = written ? FT_RECORD_CHECK_WRITTEN : FT_RECORD_CHECK,
				   .icount = r->m->icount,
				   .data = bytes,
				   .length = written ? FT_CHECK_WRITTEN_BYTES : FT_CHECK_BYTES};
	ft_machine_components(r->m, written, hash);
	if (written)
		ft_record_check_written(hash, bytes);
	else
		ft_record_check(hash, bytes);
	put(r, &record);
	r->next_check = r->m->icount + r->check_every;
	if (!written)
		return;
	r->next_written = r->m->icount + FT_RECORDER_WRITTEN * r->check_every;
	ft_memory_mark(&r->m->ram);
	r->m->engine_ops->observe(r->m->engine);
}

int ft_recorder_checkpoint(struct ft_recorder *r, struct ft_machine *m, uint32_t number, int segment,
			   const struct ft_snapshot_seal *seal, struct ft_error *err)
{
	char room[CMSG_SPACE(sizeof(int))] = {0};
	struct ft_scribe_order order = {.number = number, .sealed = seal != NULL};
	struct iovec part = {.iov_base = &order, .iov_len = sizeof(order)};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	*header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
	memcpy(CMSG_DATA(header), &segment, sizeof(segment));
	if (seal)
		order.seal = *seal;
	/* Before the record: the scribe looks for it when it meets that. */
	ssize_t n = sendmsg(r->orders, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
	int error = errno;
	sodium_memzero(&order, sizeof(order));
	close(segment);
	if (n != sizeof(order))
		return ft_error_set(err, n < 0 ? -error : -EIO, "the journal's scribe does not take a segment: %s", strerror(error));
	struct ft_record record = {.kind = FT_RECORD_CHECKPOINT, .icount = m->icount, .value = number};
	r->m = m;
	/* How it came here is the end of the segment before. */
	if (r->recording && r->ran)
		put(r, &(struct ft_record){.kind = FT_RECORD_STOP, .icount = m->icount});
	r->state = (struct ft_record_state){0};
	r->recording = true;
	r->ran = r->halted = false;
	r->segment = number;
	r->sent = 0;
	r->peer_count = 0;
	put(r, &record);
	if (!r->recording)
		return ft_error_set(err, -ENOBUFS, "the journal's ring is full");
	ft_machine_forget(m);
	ft_memory_mark(&m->ram);
	m->engine_ops->observe(m->engine);
	r->next_check = m->icount + r->check_every;
	r->next_written = m->icount + FT_RECORDER_WRITTEN * r->check_every;
	m->journal = journal;
	m->journal_context = r;
	return 0;
}

static void put_piece(void *context, uint32_t kind, const void *data, size_t length)
{
	struct ft_recorder *r = context;
	put(r, &(struct ft_record){.kind = FT_RECORD_TRIAL, .icount = r->m->icount, .value = kind, .data = data, .length = (uint32_t)length});
}

uint32_t ft_recorder_seed(struct ft_recorder *r, const struct ft_request *request, const struct ft_outside_config *outside, uint64_t number)
{
	size_t pieces, size = ft_transcript_size(request, &pieces);
	/* A request must not be what makes a gap in the guest's own journal. */
	if (!r->recording || ft_journal_ring_room(&r->ring) < size + pieces * FT_RECORD_CONTROL_MAX + SPARE / 2)
		return 0;
	check(r, false);
	ft_transcript_tell(request, outside, number, put_piece, r);
	return r->recording ? r->run : 0;
}

void ft_recorder_before(struct ft_recorder *r)
{
	r->inside = r->recording;
}

void ft_recorder_after(struct ft_recorder *r, enum ft_stop stop, uint64_t wake)
{
	if (!r->recording)
		return;
	r->inside = false;
	r->ran = true;
	bool ahead = stop == FT_STOP_IDLE && r->m->clock.mode == FT_CLOCK_LIVE && wake <= ft_machine_vtime(r->m);
	r->halted = stop == FT_STOP_IDLE && !ahead;
	/* Ahead of wall time: where that is nobody can tell from the inputs. */
	if (ahead)
		put(r, &(struct ft_record){.kind = FT_RECORD_STOP, .icount = r->m->icount});
	if (r->recording && r->m->icount >= r->next_check && stop != FT_STOP_RESET && stop != FT_STOP_ERROR)
		check(r, r->m->icount >= r->next_written);
	ft_journal_ring_progress(&r->ring, r->m->icount);
}

uint64_t ft_recorder_commit(struct ft_recorder *r)
{
	/* A replay that ends with the last record has to have come to where the machine did what somebody may see now. */
	if (r->recording && r->ran)
		put(r, &(struct ft_record){.kind = FT_RECORD_STOP, .icount = r->m->icount});
	if (!r->recording)
		return 0;
	__atomic_store_n(&r->ring.page->wanted, r->ring.head, __ATOMIC_RELEASE);
	kick(r);
	return r->ring.head;
}

uint64_t ft_recorder_durable(const struct ft_recorder *r)
{
	return __atomic_load_n(&r->ring.page->tail, __ATOMIC_ACQUIRE);
}

bool ft_recorder_failing(const struct ft_recorder *r)
{
	return __atomic_load_n(&r->ring.page->failing, __ATOMIC_ACQUIRE) != 0;
}

uint64_t ft_recorder_wall(const struct ft_recorder *r, uint64_t monotonic_ns)
{
	return r->recording ? monotonic_ns + ((r->m->clock.wall_base_ns - monotonic_ns) & (FT_RECORD_CLOCK_UNIT - 1)) : monotonic_ns;
}

bool ft_recorder_full(const struct ft_recorder *r)
{
	return r->recording && r->hold && ft_journal_ring_room(&r->ring) < SPARE;
}

void ft_recorder_close(struct ft_recorder *r, enum ft_reset end)
{
	if (!r->ring.page)
		return;
	if (r->recording && !end)
		check(r, true);
	if (r->recording)
		put(r, &(struct ft_record){.kind = FT_RECORD_END, .icount = r->m->icount, .value = end});
	if (r->m)
		r->m->journal = NULL;
	close(r->orders);
	/* What it does not get written is in the ring's file. */
	for (int waited = 0; r->scribe > 0 && waitpid(r->scribe, NULL, WNOHANG) == 0; waited += 10) {
		if (waited >= GRACE_MS) {
			kill(r->scribe, SIGKILL);
			waitpid(r->scribe, NULL, 0);
			break;
		}
		poll(NULL, 0, 10);
	}
	close(r->wake);
	if (r->done >= 0)
		close(r->done);
	ft_journal_ring_close(&r->ring);
	*r = (struct ft_recorder){.wake = -1, .orders = -1, .done = -1};
}
