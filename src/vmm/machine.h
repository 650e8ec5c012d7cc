/* One virtual PC. Everything hangs off struct ft_machine; there are no globals, two machines in a process are two
 * machines. One thread touches a machine (the one that calls ft_machine_run); ft_machine_kick alone may be called from
 * elsewhere. Where it has several processors each has a thread, and while ft_machine_run lasts any of them may be the one: one at a
 * time, under the engine's lock, devices, hooks and backend included. Outside of it the others stand still.
 *
 * This header is what engines, devices, clones and the process around them share. */
#ifndef FT_VMM_MACHINE_H
#define FT_VMM_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/engine.h"
#include "vmm/memory.h"

struct ft_machine;

/* ---- Clock ------------------------------------------------------------------------------------------------- */

enum ft_clock_mode {
	FT_CLOCK_LIVE, /* virtual time follows wall time by journalled steps */
	FT_CLOCK_FREE  /* a pure function of the instruction count; idle jumps to the next timer */
};

/* vtime(icount) = base_ns + (icount - base_icount) * ns_per_1024insn / 1024. A step moves base forward. So do accesses
 * that are slow on any PC (a port, a device register, the time stamp counter): they cost a fixed virtual time, which
 * makes loops that poll for time to pass short in instructions. The cost is a function of the instruction alone. */
struct ft_clock {
	enum ft_clock_mode mode;
	uint64_t base_ns, base_icount;
	uint32_t ns_per_1024insn; /* 1024: one virtual nanosecond an instruction */
	uint64_t tsc_khz;         /* TSC = vtime * tsc_khz / 10^6 + tsc_adjust */
	uint64_t tsc_adjust;      /* IA32_TSC_ADJUST */
	uint64_t epoch_ns;        /* wall-clock time (UNIX, ns) at vtime 0: what the RTC shows; part of the state */
	uint64_t wall_base_ns;    /* live: host CLOCK_MONOTONIC that corresponds to vtime 0 */
	uint64_t lead_end_ns;     /* live: virtual time may run ahead of wall time up to here, until the next sync */
};

/* The crystal of CPUID leaf 0x15: what the local APIC's timer counts. A tick is a nanosecond, as KVM's is (APIC_BUS_CYCLE_NS), and the
 * TSC a fraction of it, which model.c finds. */
#define FT_CRYSTAL_KHZ 1000000u
#define FT_TSC_KHZ_MAX 10000000u

static inline bool ft_clock_possible(uint64_t tsc_khz)
{
	return tsc_khz && tsc_khz <= FT_TSC_KHZ_MAX;
}

/* Virtual nanoseconds that an access takes. Below what it costs our own process, so that `live` does not run ahead. */
#define FT_COST_TSC    20u
#define FT_COST_MEMORY 40u
#define FT_COST_IO     100u

uint64_t ft_machine_vtime(const struct ft_machine *m); /* ns, at the current m->icount */
uint64_t ft_machine_tsc(const struct ft_machine *m);   /* what the guest would read */
uint64_t ft_machine_rdtsc(struct ft_machine *m);       /* the guest reads it (RDTSC, RDTSCP): costs FT_COST_TSC */
uint64_t ft_clock_icount_at(const struct ft_machine *m, uint64_t vtime_ns); /* first icount with vtime >= vtime_ns */
void ft_clock_charge(struct ft_machine *m, uint64_t ns);
void ft_clock_jump(struct ft_machine *m, uint64_t vtime_ns);                /* forward only */
uint64_t ft_clock_tsc_to_ns(const struct ft_machine *m, uint64_t tsc);      /* first vtime with TSC >= tsc; UINT64_MAX: never */

/* A one-shot timer in virtual time. Owned by the device that embeds it; armed timers are on the machine's list.
 * Fires from ft_machine_run at the first instruction boundary at or after its deadline. Ties fire in order of `rank`
 * (assigned at registration), so order is a function of state. */
struct ft_timer {
	uint64_t deadline_ns; /* UINT64_MAX: not armed */
	uint32_t rank;
	void (*fire)(void *context);
	void *context;
	struct ft_timer *next;
};

void ft_timer_register(struct ft_machine *m, struct ft_timer *timer, void (*fire)(void *), void *context);
void ft_timer_arm(struct ft_machine *m, struct ft_timer *timer, uint64_t deadline_ns);
void ft_timer_disarm(struct ft_machine *m, struct ft_timer *timer);
uint64_t ft_timer_next(const struct ft_machine *m); /* earliest deadline, UINT64_MAX: none */
void ft_timer_fire_due(struct ft_machine *m);
void ft_timer_refresh(struct ft_machine *m);        /* recomputes m->deadline */

/* ---- Buses (src/vmm/bus.c) ------------------------------------------------------------------------------- */

enum ft_space { FT_SPACE_IO, FT_SPACE_MEMORY };

/* A device's window into a space. size: 1, 2, 4 or 8 bytes (I/O: up to 4); offset + size never leaves the region.
 * Reads of nothing give all ones, writes go nowhere. */
struct ft_region {
	enum ft_space space;
	uint64_t base, length;
	uint64_t (*read)(void *device, uint64_t offset, unsigned size);
	void (*write)(void *device, uint64_t offset, unsigned size, uint64_t value);
	void *device;
	const char *name;
	bool enabled;
	struct ft_region *next;
};

int ft_bus_add(struct ft_machine *m, struct ft_region *region, struct ft_error *err); /* -EEXIST on overlap */
void ft_bus_move(struct ft_machine *m, struct ft_region *region, uint64_t base, bool enabled); /* PCI BARs */

/* Called by the engine, with FPU state saved. */
uint64_t ft_bus_read(struct ft_machine *m, enum ft_space space, uint64_t address, unsigned size);
void ft_bus_write(struct ft_machine *m, enum ft_space space, uint64_t address, unsigned size, uint64_t value);

/* ---- Interrupts (dev/pic.c, dev/ioapic.c, dev/lapic.c) ------------------------------------------------------- */

void ft_irq_set(struct ft_machine *m, unsigned gsi, bool level); /* ISA 0..15 reach PIC and IOAPIC, PCI 16..23 IOAPIC */
void ft_irq_message(struct ft_machine *m, uint64_t address, uint32_t data); /* MSI */

/* Engine side. m->interrupt is kept current by the interrupt controllers: an unmasked interrupt above the task
 * priority waits. The engine looks at it when IF is set and no shadow holds, and takes the vector with
 * ft_irq_acknowledge (which may yield a spurious vector). */
int ft_irq_acknowledge(struct ft_machine *m);

/* Machine side: recomputes m->interrupt. */
void ft_irq_refresh(struct ft_machine *m);

/* MSRs and registers that belong to the platform, not to the engine. 0, or -1: #GP(0). */
int ft_platform_rdmsr(struct ft_machine *m, uint32_t index, uint64_t *value); /* APIC_BASE, x2APIC, TSC, TSC_DEADLINE, TSC_ADJUST */
int ft_platform_wrmsr(struct ft_machine *m, uint32_t index, uint64_t value);
uint64_t ft_platform_cr8(struct ft_machine *m);
void ft_platform_set_cr8(struct ft_machine *m, uint64_t value);

/* ---- The one door for non-determinism (src/vmm/input.c) ------------------------------------------------------- */

enum ft_input_kind {
	FT_INPUT_FRAME,   /* a received Ethernet frame: data */
	FT_INPUT_CLOCK,   /* live clock step: value = new vtime base in ns */
	FT_INPUT_ENTROPY, /* bytes for virtio-rng: data */
	FT_INPUT_CONSOLE, /* bytes typed at the serial console: data */
	FT_INPUT_GENERATION, /* another generation ID (vmm/dev/generation.h): data, 16 bytes */
	FT_INPUT_DISK,    /* data, one byte: 1: the host's disk takes no more writes; 0: it does again */
	FT_INPUT_KINDS
};

/* Stamps the input with m->icount, hands it to the journal if there is one, and gives it to the machine. Nothing that
 * is not a function of the machine's state may reach it any other way. */
/* 0; -EINVAL: no possible input (not stamped); -ENETDOWN, -ENOBUFS: a frame the guest's device does not take, counted in
 * m->frames_dropped. */
int ft_machine_input(struct ft_machine *m, enum ft_input_kind kind, uint64_t value, const void *data, size_t length);

/* ---- Hooks: what an observer sees (clones and the live guest's detection). They may read, never alter. -------- */

enum ft_hook {
	FT_HOOK_SYSCALL = 1,    /* SYSCALL instruction in ring 3 */
	FT_HOOK_SYSRET = 2,     /* return to ring 3 by SYSRET or IRET; rax is the result when it ends a syscall */
	FT_HOOK_CR3 = 4,
	FT_HOOK_FAULT = 8,      /* exception delivered while in ring 3 */
	FT_HOOK_EXEC_PAGE = 16, /* ring 3 runs code from a page that was written since the mark, or is writable */
	FT_HOOK_NET_TX = 32, FT_HOOK_DISK = 64, FT_HOOK_CONSOLE = 128, FT_HOOK_KEY = 256, FT_HOOK_NET_RX = 512
};

struct ft_hooks {
	uint32_t mask; /* enum ft_hook */
	void *context;
	void (*syscall)(void *context, uint64_t nr, const uint64_t args[6], uint64_t rip, uint64_t rsp);
	void (*sysret)(void *context, uint64_t rax, uint64_t rip, uint64_t rsp);
	void (*cr3)(void *context, uint64_t old, uint64_t new);
	void (*fault)(void *context, unsigned vector, uint32_t error, uint64_t address, uint64_t rip);
	/* pte_flags: bit 0 present .. as in the leaf entry, effective W (bit 1) over all levels; page_flags as in memory.h */
	void (*exec_page)(void *context, uint64_t rip, uint64_t gpa, uint8_t page_flags, uint64_t pte_flags);
	void (*net_tx)(void *context, const void *frame, size_t length);
	void (*net_rx)(void *context, const void *frame, size_t length);
	void (*disk)(void *context, bool write, uint64_t sector, uint32_t sectors);
	void (*console)(void *context, const char *bytes, size_t length);
	void (*key)(void *context, uint8_t scancode);
};

/* ---- What is outside of the machine ------------------------------------------------------------------------ */

/* Set by whoever runs the machine. A clone puts its own ones here before its first instruction. */
struct ft_backend {
	void *context;
	void (*net_tx)(void *context, const void *frame, size_t length); /* Ethernet, no FCS, checksums complete */
	void (*console)(void *context, const char *bytes, size_t length);
	/* The guest asked virtio-rng for bytes: the answer comes as FT_INPUT_ENTROPY, at once or later. */
	void (*entropy)(void *context, size_t wanted);
};

/* ---- The machine ---------------------------------------------------------------------------------------------- */

/* A quarter of a nanosecond an instruction: translated code rarely runs faster, so that a live machine's virtual time
 * stays behind wall time (steps move it forward) and its guest is never slowed down to keep the clock right. */
#define FT_DEFAULT_NS_PER_1024INSN 256u
#define FT_DEFAULT_TSC_KHZ         1000000u

#define FT_VCPUS_MOST 16u

struct ft_machine_config {
	uint64_t memory;
	unsigned vcpus;           /* 0: one; more than one: engine kvm alone */
	enum ft_clock_mode clock;
	uint32_t ns_per_1024insn; /* 0: FT_DEFAULT_NS_PER_1024INSN */
	uint64_t tsc_khz;         /* 0: FT_DEFAULT_TSC_KHZ */
	uint64_t epoch_ns;        /* wall-clock time at virtual time 0 ... */
	uint64_t epoch_monotonic_ns; /* ... and live: CLOCK_MONOTONIC at the same moment; 0: that of the first sync */
	uint8_t mac[6];
	uint16_t mtu;             /* told to the guest's network driver; 0: not told, it takes 1500 */
	int disk_fd;              /* read-only base image, or -1; the machine dups it */
	const struct ft_engine_ops *engine;
	struct ft_engine_options engine_options;
	const struct ft_model *model; /* NULL: the software CPU's; with engine kvm: the host's. Borrowed */
	/* Boot: contents borrowed during ft_machine_boot only. */
	const void *kernel;
	size_t kernel_length;
	const void *initrd;
	size_t initrd_length;
	const char *cmdline;
};

struct ft_devices; /* vmm/dev/devices.h: all devices of the PC, embedded structs */

struct XXH3_state_s;

struct ft_machine {
	struct ft_memory ram;
	unsigned vcpus; /* the first is the engine's `get` and `set`; the others: vmm/dev/processor.h */
	struct ft_model model;
	char model_note[256]; /* what is to be known of how it fits the host, in a sentence; "": nothing */
	struct ft_clock clock;
	struct ft_timer *timers;
	uint32_t timer_ranks;
	struct ft_region *regions[2];
	struct ft_devices *devices;
	struct ft_hooks hooks;
	struct ft_backend backend;
	const struct ft_engine_ops *engine_ops, *standby_ops;
	struct ft_engine *engine, *standby; /* ft_machine_stand_by */
	struct ft_engine_options standby_options;
	bool native; /* its CPU is the host's own (ft_engine_options): no state of it can be saved, and no other engine goes on with it */
	struct ft_error error;

	uint64_t icount;       /* exact whenever machine or device code runs */
	uint64_t deadline;     /* icount at which the earliest timer is due; kept current by ft_timer_arm and clock steps.
	                          The engine reads it again after every call out and leaves with FT_EXIT_COUNT there. */
	bool interrupt;        /* see ft_irq_acknowledge */
	bool nmi;
	bool leave;            /* a device asks the engine to leave (reset, power off): FT_EXIT_STOPPED */
	uint8_t reset;         /* enum ft_reset */
	int kicked;            /* ft_machine_kick was called (atomic) */
	uint64_t limit_ns;     /* where the running ft_machine_run ends in virtual time: counts as a deadline */
	struct XXH3_state_s *hash; /* scratch of ft_machine_hash: made with the machine, so that a hash cannot fail */
	uint64_t frames_dropped; /* received frames the guest did not take: no driver, or too many waiting. Not state */

	/* Journal: called by ft_machine_input before the input takes effect. NULL: none. */
	void (*journal)(void *context, uint64_t icount, enum ft_input_kind kind, uint64_t value, const void *data,
			size_t length);
	void *journal_context;
};

enum ft_reset { FT_RESET_NONE, FT_RESET_REBOOT, FT_RESET_POWEROFF, FT_RESET_TRIPLE_FAULT };

struct ft_machine *ft_machine_create(const struct ft_machine_config *config, struct ft_error *err);
void ft_machine_destroy(struct ft_machine *m);

/* Threads that its engine runs it with are started, by a process that is about to confine itself and could not later. Without it they are
 * by the first run. */
int ft_machine_get_ready(struct ft_machine *m, struct ft_error *err);

/* Loads kernel, initrd and command line and sets the CPU to the kernel's 64-bit entry. */
int ft_machine_boot(struct ft_machine *m, const struct ft_machine_config *config, struct ft_error *err);

enum ft_stop {
	FT_STOP_COUNT,  /* icount reached limits.icount */
	FT_STOP_VTIME,  /* virtual time reached limits.vtime_ns (timers due before it have fired) */
	FT_STOP_IDLE,   /* halted; live: sleep until *wake_ns or an input (also not halted, when virtual time has come
	                   too far ahead of wall time); free: only when no timer is armed, or limits.stop_when_idle */
	FT_STOP_KICKED, /* ft_machine_kick */
	FT_STOP_RESET,  /* m->reset says which */
	FT_STOP_ERROR   /* m->error */
};

struct ft_run_limits {
	uint64_t icount;      /* absolute; UINT64_MAX: none */
	uint64_t vtime_ns;    /* absolute; UINT64_MAX: none */
	bool stop_when_idle;  /* return FT_STOP_IDLE at HLT instead of jumping (free clock) */
};

/* Runs the machine. *wake_ns (may be NULL): at FT_STOP_IDLE the virtual time at which to go on. In `live` mode the
 * caller passes wall time in by ft_machine_sync before each call and after each sleep. */
enum ft_stop ft_machine_run(struct ft_machine *m, const struct ft_run_limits *limits, uint64_t *wake_ns);

/* Live clock: moves virtual time forward to wall time (one FT_INPUT_CLOCK, bounded step), never back. Where the engine follows the host's
 * time by itself, only the two are compared, and the clock chip's time goes on with wall time. */
void ft_machine_sync(struct ft_machine *m, uint64_t wall_monotonic_ns);

/* Makes ft_machine_run return FT_STOP_KICKED soon. Any thread, async-signal-safe. */
void ft_machine_kick(struct ft_machine *m);

/* For a hosted engine (kvm), which does not outlive a fork: the one that a fork goes on with. It is made now, and waits; a hosted one is
 * made when it takes over, by that process. */
int ft_machine_stand_by(struct ft_machine *m, const struct ft_engine_ops *ops, const struct ft_engine_options *options,
			struct ft_error *err);
/* In the fork, once: the engine that stands by, if any, has the CPU from here on. What the other had of the kernel is its own process's,
 * and its descriptors are for the fork to close. */
int ft_machine_take_over(struct ft_machine *m, struct ft_error *err);

/* Drops what the engine remembers of page tables and code (engine.h says when that shows). A machine that does this where its
 * state is saved goes on exactly as one that is restored from it, given the same stops and inputs. Costs the guest the
 * translation of its working code again. */
void ft_machine_forget(struct ft_machine *m);

/* Frames that came in but for which the guest has no buffer yet (machine state). */
size_t ft_machine_frames_waiting(const struct ft_machine *m);

/* Wall-clock time, for callers of a live machine: the CLOCK_MONOTONIC at which virtual time reaches vtime_ns. */
uint64_t ft_machine_wall(const struct ft_machine *m, uint64_t vtime_ns);

/* The guest asks to be reset or switched off: ft_machine_run returns FT_STOP_RESET. */
void ft_machine_request_reset(struct ft_machine *m, enum ft_reset reset);

/* True when no device has work under way (disk requests, frames waiting, undelivered completions). */
bool ft_machine_quiet(const struct ft_machine *m);

/* XXH3-128 (low 64 bits) over RAM, CPU and every device's state; the clock and icount included. Two machines with
 * equal hashes behave equally from here on given equal inputs, but for a guest under memory pressure whose engines remember
 * different page table entries: see engine.h. */
uint64_t ft_machine_hash(struct ft_machine *m);

/* The same over the pages and disk blocks written since the mark only: for machines whose RAM and disk were equal when they
 * were marked, as clones of one seed. Costs what was written, not what there is. */
uint64_t ft_machine_hash_written(struct ft_machine *m);

/* Hashes of the machine's parts one by one, to name the one that differs. LIGHT: without RAM and disk, which cost a microsecond
 * or so; RAM and disk: what was written since the mark. */
#define FT_COMPONENTS(X)                                                                                             \
	X(CPU, "cpu")                                                                                                \
	X(CLOCK, "clock")                                                                                            \
	X(LAPIC, "lapic")                                                                                            \
	X(IOAPIC, "ioapic")                                                                                          \
	X(PIC, "pic")                                                                                                \
	X(PIT, "pit")                                                                                                \
	X(RTC, "rtc")                                                                                                \
	X(UART, "uart")                                                                                              \
	X(I8042, "keyboard")                                                                                         \
	X(POWER, "power")                                                                                            \
	X(PCI, "pci")                                                                                                \
	X(NET, "net")                                                                                                \
	X(RNG, "rng")                                                                                                \
	X(BLK, "blk")                                                                                                \
	X(TIMERS, "timers")                                                                                          \
	X(RAM, "ram")                                                                                                \
	X(DISK, "disk")

enum ft_component {
#define X(name, text) FT_COMPONENT_##name,
	FT_COMPONENTS(X)
#undef X
	FT_COMPONENT_COUNT,
	FT_COMPONENT_LIGHT = FT_COMPONENT_RAM
};

/* written: RAM and disk, too. */
void ft_machine_components(struct ft_machine *m, bool written, uint64_t hash[FT_COMPONENT_COUNT]);
const char *ft_component_name(unsigned component);

/* Bytes of memory that hold what the guest has written to its disk: without an overlay file they grow with what it writes, at most to
 * the disk's size. */
uint64_t ft_machine_disk_written(const struct ft_machine *m);

#endif
