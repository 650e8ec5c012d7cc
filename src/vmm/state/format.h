/* What a machine state consists of: state.md is the same for people. Everything is plain bytes without pointers or hidden
 * padding; sizes are asserted in codec.c. */
#ifndef FT_VMM_STATE_FORMAT_H
#define FT_VMM_STATE_FORMAT_H

#include "vmm/dev/devices.h"
#include "vmm/state/kvm.h"

#define FT_STATE_MAGIC    "FTSTATE" /* with its NUL */
#define FT_STATE_VERSION  1u
#define FT_STATE_VERSION_PROCESSORS 2u /* has that section: a machine with several */
#define FT_STATE_VERSION_SPECULATION 3u /* and that one: their CPU model has SPEC_CTRL */
#define FT_STATE_CPUIDS_MOST   64u
#define FT_STATE_MSR_COUNT   15u /* and SPEC_CTRL, where the CPU model has it */
#define FT_STATE_MSRS_MOST    16u
#define FT_STATE_VIRTIOS_MOST  3u
#define FT_STATE_LENGTH_MAX (16u << 20) /* more than any state has: 512 waiting jumbo frames are 5 MiB */

struct ft_state_header {
	char magic[8];
	uint32_t version, sections;
	uint64_t length; /* of everything: this header, sections, and at the end XXH3-64 of all bytes before it */
};
#define FT_STATE_CHECKSUM 8u

struct ft_state_section_header {
	uint32_t tag, reserved;
	uint64_t length; /* of the content; what follows begins at the next multiple of 8 */
};

/* X(TAG, number, name): in the order in which they lie in a state; each once. */
#define FT_STATE_SECTIONS(X)                                                                                             \
	X(MACHINE, 1, "machine") X(CPUID, 2, "cpuid") X(REGS, 3, "regs") X(SREGS, 4, "sregs") X(DEBUG, 5, "debugregs")   \
	X(MSRS, 6, "msrs") X(XSAVE, 7, "xsave") X(EVENTS, 8, "events") X(MP, 9, "mp") X(CLOCK, 10, "clock")              \
	X(PIC, 11, "pic") X(IOAPIC, 12, "ioapic") X(LAPIC, 13, "lapic") X(PIT, 14, "pit") X(BOARD, 15, "board")          \
	X(UART, 16, "uart") X(PCI, 17, "pci") X(VIRTIO, 18, "virtio") X(NET, 19, "net") X(RNG, 20, "rng")                \
	X(BLK, 21, "blk") X(TIMERS, 22, "timers") X(PROCESSORS, 23, "processors")       \
	X(SPECULATION, 24, "speculation")

enum ft_state_tag {
#define X(tag, number, name) FT_STATE_##tag = number,
	FT_STATE_SECTIONS(X)
#undef X
	FT_STATE_TAGS
};

struct ft_state_machine {
	uint64_t memory;    /* bytes of RAM */
	uint64_t disk_size; /* bytes; 0: no disk */
	char engine[16];    /* that saved it; "": a machine without a CPU (tests of devices) */
	char host_vendor[16]; /* CPUID leaf 0 of the host ... */
	uint32_t host_signature; /* ... and EAX of leaf 1: undefined flags, x87 and rsqrt/rcp are this processor's */
	uint32_t pci_functions, virtio_devices, reserved;
};

struct ft_state_clock {
	uint64_t icount, vtime_ns; /* vtime_ns follows from the others; it says the same and is checked */
	uint64_t base_ns, base_icount, tsc_khz, tsc_adjust, epoch_ns;
	uint32_t ns_per_1024insn, reserved;
};

/* What the KVM shapes have no place for, and the chips that KVM leaves to user space. */
struct ft_state_board {
	uint64_t lapic_timer_start_ns;
	uint64_t lapic_base, lapic_tsc_deadline; /* sregs.apic_base and an MSR say the same of a machine that has a CPU */
	uint32_t lapic_error_pending;
	uint8_t pit_running[3], reserved0;
	uint32_t pci_address;
	uint16_t power_enable, power_control;
	uint8_t power_reset;
	uint8_t rtc_index, rtc_cmos[128];
	uint8_t i8042_queue[FT_I8042_QUEUE], i8042_count, i8042_control, i8042_output_port, i8042_expects, i8042_keyboard;
	uint8_t reserved;
	int64_t rtc_offset_s;
};

struct ft_state_uart {
	uint8_t ier, fcr, lcr, mcr, scratch, dll, dlm, transmit_empty;
	uint32_t fifo_count, waiting_count;
	uint8_t fifo[FT_UART_FIFO], waiting[FT_UART_WAITING];
};

struct ft_state_pci {
	uint32_t slot, msix_pending, line, reserved;
	uint8_t config[256];
	uint32_t msix[FT_PCI_MSIX_VECTORS][4];
};

struct ft_state_queue {
	uint64_t descriptors, available, used;
	uint16_t size, next_available, next_used, signalled, vector;
	uint8_t enabled, event_index, reserved[4];
};

struct ft_state_virtio {
	uint32_t slot, id; /* id: virtio 1.2 section 5 */
	uint64_t driver_features;
	uint32_t device_select, driver_select;
	uint16_t queue_select, config_vector;
	uint8_t status, interrupt_status, reserved[2];
	uint8_t config[FT_VIRTIO_CONFIG]; /* what the machine was built with: MAC, MTU, capacity */
	struct ft_state_queue queue[FT_VIRTIO_QUEUES];
};

/* Before `count` frames, each a uint32_t length and the bytes, filled up with zeros to a multiple of 4. */
struct ft_state_net {
	uint32_t first, count;
};

/* Before `count` entries. */
struct ft_state_waiting {
	uint32_t first, count;
};

/* Absolute virtual times in ns; UINT64_MAX: not armed. */
struct ft_state_timers {
	uint64_t lapic, pit, rtc_second, rtc_periodic, uart, blk;
};

/* A processor besides the first: number 1 and up, in that order. What other sections have of the first one. */
struct ft_state_processor {
	uint32_t number;
	struct ft_kvm_mp mp;
	uint64_t lapic_timer_start_ns;
	struct ft_kvm_regs regs;
	struct ft_kvm_sregs sregs;
	struct ft_kvm_debugregs debugregs;
	struct ft_kvm_msr msrs[FT_STATE_MSR_COUNT];
	struct ft_kvm_xsave xsave;
	struct ft_kvm_events events;
	struct ft_kvm_lapic lapic;
};

/* All of it, decoded. */
struct ft_state {
	bool present[FT_STATE_TAGS];
	struct ft_state_machine machine;
	struct ft_kvm_cpuid cpuid[FT_STATE_CPUIDS_MOST];
	uint32_t cpuids;
	struct ft_kvm_regs regs;
	struct ft_kvm_sregs sregs;
	struct ft_kvm_debugregs debugregs;
	struct ft_kvm_msr msrs[FT_STATE_MSRS_MOST];
	uint32_t msr_count;
	struct ft_kvm_xsave xsave;
	struct ft_kvm_events events;
	struct ft_kvm_mp mp;
	struct ft_state_clock clock;
	struct ft_kvm_pic pic[2];
	struct ft_kvm_ioapic ioapic;
	struct ft_kvm_lapic lapic;
	struct ft_kvm_pit pit;
	struct ft_state_board board;
	struct ft_state_uart uart;
	struct ft_state_pci pci[FT_PCI_SLOTS];
	uint32_t pcis;
	struct ft_state_virtio virtio[FT_STATE_VIRTIOS_MOST];
	uint32_t virtios;
	const uint8_t *net; /* struct ft_state_net and the frames; of the bytes that were decoded, or owned (net_owned) */
	uint64_t net_length;
	uint8_t *net_owned;
	struct ft_state_waiting rng;
	uint16_t rng_heads[FT_VIRTQUEUE_MAX];
	struct ft_state_waiting blk;
	struct ft_blk_request blk_requests[FT_VIRTQUEUE_MAX];
	struct ft_state_timers timers;
	struct ft_state_processor processors[FT_VCPUS_MOST - 1];
	uint32_t processor_count; /* of these: one less than there are */
	struct ft_kvm_msr speculation[FT_VCPUS_MOST - 1]; /* theirs, where the CPU model has it */
	uint32_t speculations;
};

/* codec.c. Bytes from and to the decoded form: lengths and tags, not meanings. */
int ft_state_encode(const struct ft_state *s, uint8_t **bytes, size_t *length, struct ft_error *err);
int ft_state_decode(struct ft_state *s, const void *bytes, size_t length, struct ft_error *err);

/* devices.c. Machine to decoded form; back, for a state that has been checked: -EINVAL when the engine refuses it all the
 * same, and then nothing has changed. */
int ft_state_take(struct ft_state *s, struct ft_machine *m, struct ft_error *err);
int ft_state_give(const struct ft_state *s, struct ft_machine *m, struct ft_error *err);
void ft_state_host(struct ft_state_machine *machine); /* fills host_vendor and host_signature */
void ft_state_lapic_take(struct ft_state *s, const struct ft_lapic *lapic); /* s->clock.vtime_ns is set */
void ft_state_lapic(const struct ft_state *s, struct ft_lapic_state *lapic);
unsigned ft_state_virtios(struct ft_devices *d, struct ft_virtio *list[FT_STATE_VIRTIOS_MOST]); /* in the order of slots */

/* cpu.c: the KVM shapes of one vCPU, by its number. */
void ft_state_cpu_take(struct ft_state *s, struct ft_machine *m);
void ft_state_cpu_shape(struct ft_state *s, struct ft_machine *m, unsigned number, const struct ft_cpu_state *cpu);
void ft_state_cpu_give(const struct ft_state *s, struct ft_cpu_state *cpu);
int ft_state_cpu_check(const struct ft_state *s, struct ft_machine *m, const struct ft_model *model, unsigned number, struct ft_error *err);

/* model.c: what a guest of that model sees; what model a state shows (false: none), and that it shows nothing else. */
void ft_state_model(struct ft_machine *m, const struct ft_model *model, unsigned number, uint64_t tsc_khz, struct ft_kvm_cpuid *cpuid,
		    uint32_t *count);
uint64_t ft_state_model_msr(struct ft_machine *m, const struct ft_model *model, uint32_t index); /* 0: it does not tell */
bool ft_state_model_find(const struct ft_state *s, struct ft_model *model);
int ft_state_model_check(const struct ft_state *s, struct ft_machine *m, struct ft_model *model, struct ft_error *err);

/* processors.c: those besides the first, each as what `s` would have if it were the first (`one`: memory for that). */
int ft_state_processors_take(struct ft_state *s, struct ft_machine *m, struct ft_error *err);
void ft_state_processors_give(const struct ft_state *s, struct ft_state *one, struct ft_machine *m);
void ft_state_processor_spread(const struct ft_state *s, unsigned number, struct ft_state *one);
uint8_t ft_state_processor_waits(uint32_t mp_state); /* enum ft_processor_waits */

/* check.c: every field, against what this machine can be. */
int ft_state_check(const struct ft_state *s, struct ft_machine *m, struct ft_error *err);
/* "machine state: FIELD is VALUE (WHY)"; -EINVAL. */
int ft_state_refuse(struct ft_error *err, uint64_t value, const char *why, const char *field, ...)
    __attribute__((format(printf, 4, 5)));

#endif
