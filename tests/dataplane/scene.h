/* A gate with both its neighbours played by the test: the client and the wire on one side, the vmm on the other, over
 * the real link and the real trial protocol. Nothing runs by itself and time only passes when the test says so.
 *
 * The vmm's side is a scripted protocol peer for tests of the gate alone; what real clones do is tested end to end.
 *
 * The scene keeps the invariant in view by itself: it follows, as a TCP receiver would, the bytes that the live guest
 * takes and the bytes that each trial's clone takes, and scene_check says whether the live guest ever took one that no
 * clone had (from the moment the test sets `strict`). */
#ifndef FT_TEST_SCENE_H
#define FT_TEST_SCENE_H

#include "base/event.h"
#include "base/link.h"
#include "base/trial.h"
#include "dataplane/gate.h"
#include "dataplane/frame.h"

#define MS 1000000ull

#define CLIENT_ISN 1000u
#define GUEST_ISN  5000u

struct wire {
	size_t length;
	unsigned uplink; /* of those to the wire */
	uint8_t data[FT_FRAME_MOST];
	struct ft_frame frame;
};

struct receiver {
	uint32_t next; /* sequence number expected */
	uint32_t given; /* behind the last that it was given, taken or not */
	uint32_t sent; /* behind the last byte of its own side: what acknowledges more it discards */
	uint8_t bytes[1 << 18];
	size_t length;
	bool fin;
	bool has_recent;
	uint32_t recent;    /* TS.Recent: what is older it discards (RFC 7323 section 5.3) */
	bool early, stale;  /* it was given bytes behind a gap, or what it discards for its age: nobody may do that to it */
};

struct request {
	struct ft_trial_begin begin;
	struct ft_trial_flow flow; /* the last one */
	uint32_t frames;
	struct wire list[128];
	bool go;
	struct receiver clone; /* the live guest at the fork, with the frames taken */
};

struct scene {
	struct ft_gate *gate;
	struct ft_link vmm;
	uint64_t now;
	/* what came out, in order, to be looked at by the test */
	struct wire to_guest[512];
	unsigned guest_count;
	struct wire to_client[512];
	unsigned client_count;
	json_t *records; /* array */
	json_t *canary;  /* array: what came of self-tests */
	bool deaf;       /* keeps no more of them */
	char log[512];
	/* the vmm's side */
	struct receiver live;
	struct receiver approved; /* the longest of what clones took */
	bool strict;
	bool violated;
	struct request request; /* the last one that is complete */
	unsigned requests, twins, finishes;
	uint64_t twin_hold;
	/* options of the segments that are made */
	uint16_t client_port;
	uint32_t client_host; /* added to the client's address */
	bool timestamps;
	bool sack;   /* SYNs permit SACK */
	bool closed; /* the guest's segments offer no window */
	uint32_t tsval;
	unsigned sequence; /* of events */
	/* and how they look: IPv6, VLAN tags (802.1Q; two: 802.1ad outside), bytes of destination options (a multiple of 8), and
	 * the client's cut into fragments of so many bytes (a multiple of 8), which come last one first if `backwards` */
	bool six;
	unsigned tags, options, fragment;
	bool backwards;
	uint32_t identification;
};

/* What the clones of the next scene may have: JSON members. One at a time unless a test says otherwise. */
extern const char *scene_clones;
/* Who takes what the gate puts into the rings, in place of the scene's own vmm, which knows requests of one flow; or NULL. */
extern void (*scene_vmm)(struct scene *scene);
/* Further members of the guest "web" and of the whole, each beginning with a comma. */
extern const char *scene_guest_keys, *scene_keys;

/* The gate's configuration alone, as scene_open_with makes it. */
json_t *scene_config(const char *service, const char *guests, const char *services);

/* service: JSON members of the one service "web" (TCP 80) besides guest, protocol and port. */
void scene_open(struct scene *scene, const char *service);
/* guests, services: further members of these maps, each ", NAME: {...}". Their links are the test's. */
void scene_open_with(struct scene *scene, const char *service, const char *guests, const char *services);
void scene_close(struct scene *scene);

/* Lets the gate work for one round after moving time. Takes what it put for guest and vmm. */
void scene_pass(struct scene *scene, uint64_t ns);

/* A segment from the client or from the guest; runs one round. sequence is relative to the ISN. */
void scene_client(struct scene *scene, uint32_t sequence, uint32_t ack, unsigned flags, const void *payload,
		  size_t length);
void scene_guest(struct scene *scene, uint32_t sequence, uint32_t ack, unsigned flags, const void *payload,
		 size_t length);
void scene_text(struct scene *scene, uint32_t sequence, const char *text); /* client, PSH|ACK */
void scene_connect(struct scene *scene); /* the three-way handshake; forgets what it put out */
/* A UDP datagram of the client's to this port (checksum left out over IPv4); scene_frame sends it, or scene_cut its pieces. */
size_t scene_datagram(const struct scene *scene, uint16_t port, const void *payload, size_t length, uint8_t *to);

/* One fragment of a client's frame (without destination options): `bytes` of what is behind the IP header from offset `from`
 * on. Returns its length. */
size_t scene_piece(const struct scene *scene, const uint8_t *frame, size_t length, uint32_t from, uint32_t bytes, bool more,
		   uint8_t *to);

void scene_frame(struct scene *scene, void *frame, size_t length); /* from the wire as it is */
void scene_forget(struct scene *scene);                            /* outputs so far */

/* Builds a frame of the client's or guest's TCP. Returns its length. */
size_t scene_build(const struct scene *scene, bool from_client, uint32_t sequence, uint32_t ack,
		   unsigned flags, const void *payload, size_t length, uint8_t *to);

/* The vmm answers the last request: what the clone took, horizon reached; evil: an event that the verdict rules call
 * malicious. */
void scene_answer(struct scene *scene, bool evil);
void scene_event(struct scene *scene, uint64_t hold, unsigned type, unsigned role, const uint64_t a[6],
		 const char *string0, const char *string1);
void scene_gone(struct scene *scene, uint64_t hold);

/* The payload bytes that the live guest has taken, as a C string. */
const char *scene_taken(struct scene *scene);
uint64_t scene_count(const struct scene *scene, enum ft_reason reason);
/* The last record with this op, borrowed, or NULL. */
json_t *scene_record(const struct scene *scene, const char *op);

int scene_start_eal(void);

#endif
