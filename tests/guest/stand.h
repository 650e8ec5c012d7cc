/* A stand for one vmm process: the test plays supervisor and dataplane. The process is the real foretaste-vmm, or a
 * function in a forked child (for the loop alone). */
#ifndef TESTS_GUEST_STAND_H
#define TESTS_GUEST_STAND_H

#include <stdbool.h>
#include <sys/types.h>

#include <jansson.h>

#include "base/event.h"
#include "base/link.h"
#include "base/trial.h"

#define STAND_PATIENCE_MS 120000 /* a machine under load is not a failure */
#define STAND_MAC                                                                                            \
	{                                                                                                    \
		0x02, 0x46, 0x54, 0x00, 0x00, 0x15                                                           \
	}

struct stand {
	pid_t pid;
	int channel;
	struct ft_link link;
	int console; /* reading end of the console log's file */
	char *log;   /* what it wrote so far */
	size_t log_length;
	uint64_t boot_ns; /* of `running`, 0 before */
	bool ready;
	void (*seen)(void *context, const void *frame, size_t length); /* each frame of the guest that a peer takes; may be NULL */
	void *seen_context;
	int journal[3]; /* ring, segment, checkpoint for stand_configure; 0: no journal; the caller's */
	unsigned journal_run;
	bool journal_holds, journal_commits;
	json_t *journal_seal; /* {salt, key} of ring, first segment and checkpoint; borrowed; NULL: not encrypted */
	json_t *checkpoint; /* what it said about its last one; owned */
	unsigned chunks;    /* of its journal that it told of */
	char *journal_error; /* owned */
	uint64_t journal_lost;
	unsigned vcpus;      /* as FORETASTE_VCPUS says; one without it */
	bool kvm, clone_kvm; /* on engine kvm; its clones, too: as FORETASTE_ENGINE and FORETASTE_CLONE_ENGINE say, or set before it is configured */
	bool native;         /* with the host's own processor (portable: false), which its clones have to be on, too; set before it is configured */
	const char *overlay; /* path of the file of the disk's overlay, set before it is configured; NULL: what the guest writes is in memory */
	uint64_t seed_wanted, seed_hold; /* the seed that it wants to keep, 0: none; and for which hold */
	json_t *seed_kept; /* what it said about the last one; owned */
	json_t *saved; /* what it said about its last snapshot; owned */
	int status; /* after stand_end */
};

/* Starts program (or runs child_main(channel) in a fork when program is NULL). */
int stand_spawn(struct stand *s, const char *program, int (*child_main)(int channel));

/* Sends the configuration for the images in directory, waits for `ready`. extra: more kernel command line words; clones:
 * how many seeds at a time. -1: it failed, its text is on stderr. */
int stand_configure(struct stand *s, const char *directory, const char *cmdline, unsigned memory_mib,
		    unsigned clones);

/* The same from a snapshot: file is borrowed. */
int stand_restore(struct stand *s, const char *directory, unsigned memory_mib, unsigned clones, int file, bool attach);

/* Makes a new link and gives it to both sides. */
void stand_link(struct stand *s);

/* Takes messages of the process; false when there was none within timeout_ms, or it has ended. */
bool stand_message(struct stand *s, int timeout_ms);

/* Waits until the guest's console shows text; false when the process ends before. */
bool stand_wait_console(struct stand *s, const char *text, void (*meanwhile)(void *), void *context);

/* The status answer; a new reference. */
json_t *stand_status(struct stand *s);

/* Closes the channel (the process has to end then), waits, fills status. */
void stand_end(struct stand *s);

/* ---- Trials ----------------------------------------------------------------------------------------------------- */

#define STAND_EVENTS 65536u

struct stand_event {
	struct ft_event event;
	char *strings[FT_EVENT_STRINGS]; /* owned */
	uint64_t arrived_ns;             /* CLOCK_MONOTONIC */
};

struct stand_trial {
	struct stand_event *events; /* of one request, in order of arrival */
	size_t count;
	size_t first; /* event of the last trial; those before are of the runs before it */
	const struct stand_event *ready, *handled, *answered, *end, *twin_end, *gone; /* NULL until seen; of the last run that told it */
};

struct stand_frame {
	size_t length;
	uint8_t bytes[1514];
};

/* Budgets as generous as tests want them. */
struct ft_trial_begin stand_budgets(uint64_t trial);

/* BEGIN, flows, frames, GO. frames: of all flows, one flow's behind the other's; each flow says how many are its own. What
 * `begin` says of them and rx_index, and the number of the request in each flow, are filled here. */
void stand_ask(struct stand *s, struct ft_trial_begin *begin, struct ft_trial_flow *flows, uint32_t count,
	       const struct stand_frame *frames);

/* Collects events of the request until its trial (twin: its twin) has ended or the seed is gone. meanwhile may be NULL. */
void stand_collect(struct stand *s, uint64_t number, struct stand_trial *trial, bool twin,
		   void (*meanwhile)(void *), void *context);
/* The same for two trials that run at one time. */
void stand_collect_two(struct stand *s, uint64_t number_a, struct stand_trial *a, uint64_t number_b,
		       struct stand_trial *b);
/* Another run of the same seed, once the one before has ended: of the first flows, or (0) the twin, up to that virtual time.
 * What its kind of run told before is forgotten, its events are not. */
void stand_run(struct stand *s, uint64_t number, struct stand_trial *trial, uint32_t flows, uint64_t until_vtime_ns);
void stand_finish(struct stand *s, uint64_t number, struct stand_trial *trial);
/* Before that: its seed is to be kept. Then seed_wanted is set, and somebody gives it a file, which is borrowed; -1: none. */
void stand_keep(struct stand *s, uint64_t number, uint64_t hold);
void stand_keep_in(struct stand *s, int file);
void stand_trial_free(struct stand_trial *trial);

/* First event since the last trial of this role and type whose first string contains text (NULL: any). */
const struct stand_event *stand_find(const struct stand_trial *trial, enum ft_event_role role,
				     enum ft_event_type type, const char *text);
void stand_print(const struct stand_trial *trial);

#endif
