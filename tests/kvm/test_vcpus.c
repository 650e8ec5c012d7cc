/* Several vCPUs on engine kvm: a guest whose processors count, read the clock, access devices and interrupt each other (processors.c).
 *
 *   test_vcpus GUEST [TEST] */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "guest_run.h"
#include "mailbox.h"
#include "vmm/dev/devices.h"
#include "vmm/engine/kvm/kvm.h"
#include "vmm/state/image.h"

#define SLICE_NS 1000000u
#define LOOKS    6000u /* slices within which what is waited for has to come */

static const char *guest;
static bool native; /* the next machine has the host's own processor */

static uint64_t now_ns(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

static struct ft_machine *make(unsigned vcpus, unsigned started, uint64_t tsc_khz, const char *kernel, size_t length)
{
	struct ft_error err = {0};
	char line[3] = {(char)('0' + started), (char)('0' + vcpus)};
	struct ft_machine_config config = {.memory = FT_RAM_MIN,
					   .vcpus = vcpus,
					   .clock = FT_CLOCK_LIVE,
					   .tsc_khz = tsc_khz,
					   .epoch_ns = 1767225600ull * 1000000000u,
					   .mac = {0x52, 0x54, 0, 0x12, 0x34, 0x56},
					   .disk_fd = -1,
					   .engine = &ft_engine_kvm,
					   .engine_options = {.host_tsc = !tsc_khz, .native = native},
					   .kernel = kernel,
					   .kernel_length = length,
					   .cmdline = line};
	struct ft_machine *m = ft_machine_create(&config, &err);
	if (!m || (kernel && ft_machine_boot(m, &config, &err)))
		fail_msg("%s", err.text);
	return m;
}

static struct ft_machine *boot(unsigned vcpus, unsigned started)
{
	struct ft_error err = {0};
	size_t length;
	void *kernel = guest_file(guest, &length, &err);
	if (!kernel)
		fail_msg("%s", err.text);
	struct ft_machine *m = make(vcpus, started, 0, kernel, length);
	free(kernel);
	return m;
}

static volatile struct mailbox *box_of(struct ft_machine *m)
{
	return (volatile struct mailbox *)(uintptr_t)ft_memory_host(&m->ram, MAILBOX);
}

static enum ft_stop slice(struct ft_machine *m, uint64_t *wake)
{
	ft_machine_sync(m, now_ns());
	struct ft_run_limits limits = {.icount = UINT64_MAX, .vtime_ns = ft_machine_vtime(m) + SLICE_NS};
	enum ft_stop stop = ft_machine_run(m, &limits, wake);
	if (stop == FT_STOP_ERROR)
		fail_msg("%s", m->error.text);
	return stop;
}

/* Where the processors' instructions come from. */
static void tell(struct ft_machine *m, unsigned number)
{
	struct ft_cpu_state first;
	m->engine_ops->get(m->engine, &first);
	for (unsigned i = 0; i < number; i++) {
		const struct ft_cpu_state *cpu = i ? &m->devices->others[i - 1].cpu : &first;
		printf("%llu breakpoints met; ", (unsigned long long)box_of(m)->traps);
		const struct ft_lapic_state *lapic = i ? &m->devices->others[i - 1].lapic.s : &m->devices->lapic.s;
		printf("processor %u: alive %u, count %llu, interrupts %llu, rip %llx, flags %llx, halted %u, shadow %u, requests %x, in service %x\n", i,
		       box_of(m)->alive[i], (unsigned long long)box_of(m)->count[i], (unsigned long long)box_of(m)->interrupts[i],
		       (unsigned long long)cpu->rip, (unsigned long long)cpu->rflags, cpu->halted, cpu->interrupt_shadow, lapic->requests[2],
		       lapic->in_service[2]);
	}
}

/* All that have been started count on, each by so much. */
static bool all_count(struct ft_machine *m, unsigned number, uint64_t by)
{
	uint64_t from[MAILBOX_CPUS];
	unsigned on = 0;
	for (unsigned i = 0; i < number; i++)
		from[i] = box_of(m)->count[i];
	for (unsigned n = 0; n < LOOKS && on < number; n++) {
		assert_int_not_equal(slice(m, NULL), FT_STOP_RESET);
		for (on = 0; on < number && box_of(m)->count[on] >= from[on] + by;)
			on++;
	}
	if (on < number)
		tell(m, number);
	return on == number;
}

static void good(struct ft_machine *m)
{
	assert_int_equal(box_of(m)->backwards, 0);
	assert_int_equal(box_of(m)->wrong, 0);
	assert_int_equal(box_of(m)->lost, 0);
}

static void all_of_them_work(void **state)
{
	for (unsigned vcpus = 2; vcpus <= 4; vcpus += 2) {
		struct ft_machine *m = boot(vcpus, vcpus);
		uint64_t began = now_ns();
		assert_true(all_count(m, vcpus, 2000));
		for (unsigned i = 0; i < vcpus; i++)
			assert_true(box_of(m)->interrupts[i] > 0);
		good(m);
		printf("%u processors: %llu ms\n", vcpus, (unsigned long long)(now_ns() - began) / 1000000);
		ft_machine_destroy(m);
	}
}

static void a_stop_stops_all(void **state)
{
	struct ft_machine *m = boot(2, 2);
	assert_true(all_count(m, 2, 100));
	for (unsigned n = 0; n < 20; n++) {
		slice(m, NULL);
		uint64_t before = ft_machine_hash(m); /* of RAM, too */
		nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
		assert_true(ft_machine_hash(m) == before);
	}
	assert_true(all_count(m, 2, 100));
	good(m);
	ft_machine_destroy(m);
}

/* Into a new machine, as a snapshot does; the old one is gone. */
static struct ft_machine *move(struct ft_machine *from, unsigned vcpus)
{
	struct ft_error err = {0};
	uint8_t *bytes = NULL, *again = NULL;
	size_t length = 0, length_again = 0;
	if (ft_state_save(from, &bytes, &length, &err))
		fail_msg("%s", err.text);
	struct ft_machine *to = make(vcpus, 0, from->clock.tsc_khz, NULL, 0);
	memcpy(to->ram.base, from->ram.base, from->ram.size);
	ft_machine_destroy(from);
	if (ft_state_restore(to, bytes, length, &err) || ft_state_save(to, &again, &length_again, &err))
		fail_msg("%s", err.text);
	assert_int_equal(length, length_again);
	assert_memory_equal(bytes, again, length);
	free(bytes);
	free(again);
	return to;
}

static void a_saved_one_goes_on(void **state)
{
	struct ft_machine *m = boot(3, 2);
	assert_true(all_count(m, 2, 100));
	for (unsigned n = 0; n < 8; n++) {
		m = move(m, 3);
		assert_true(all_count(m, 2, 100));
	}
	/* One that had not been started is, from there. */
	assert_int_equal(box_of(m)->alive[2], 0);
	box_of(m)->command = MAILBOX_START;
	assert_true(all_count(m, 3, 500));
	m = move(m, 3);
	assert_true(all_count(m, 3, 100));
	good(m);
	ft_machine_destroy(m);
}

static void idle_is_when_all_are(void **state)
{
	struct ft_machine *m = boot(2, 2);
	uint64_t wake = 0;
	unsigned idle = 0;
	assert_true(all_count(m, 2, 100));
	box_of(m)->command = MAILBOX_WATCH;
	for (unsigned n = 0; n < 20; n++) {
		uint64_t count = box_of(m)->count[1];
		for (unsigned i = 0; i < LOOKS && box_of(m)->count[1] < count + 20; i++)
			assert_int_not_equal(slice(m, NULL), FT_STOP_IDLE);
		assert_true(box_of(m)->count[1] >= count + 20);
	}
	box_of(m)->command = MAILBOX_REST;
	uint64_t woken = box_of(m)->wakes;
	for (unsigned n = 0; n < LOOKS && box_of(m)->wakes < woken + 10; n++) {
		if (slice(m, &wake) != FT_STOP_IDLE)
			continue;
		uint64_t now = ft_machine_vtime(m);
		idle++;
		assert_true(wake < now + 1000000000u);
		if (wake > now)
			nanosleep(&(struct timespec){.tv_nsec = (long)(wake - now)}, NULL);
	}
	assert_true(box_of(m)->wakes >= woken + 10);
	assert_true(idle > 0);
	/* Idle through a move, too; then an IPI wakes the other one. */
	m = move(m, 2);
	box_of(m)->command = MAILBOX_WORK;
	assert_true(all_count(m, 2, 100));
	good(m);
	ft_machine_destroy(m);
}

/* What comes for a guest that has halted is not kept waiting until its slice ends: that is over with the guest's work. */
static void a_halt_ends_the_slice(void **state)
{
	for (unsigned vcpus = 1; vcpus <= 2; vcpus++) {
		struct ft_machine *m = boot(vcpus, vcpus);
		uint64_t wake = 0, ran = 0;
		assert_true(all_count(m, vcpus, 100));
		box_of(m)->command = MAILBOX_REST;
		for (unsigned n = 0; n < 10; n++) {
			ft_machine_sync(m, now_ns());
			uint64_t now = ft_machine_vtime(m);
			struct ft_run_limits limits = {.icount = UINT64_MAX, .vtime_ns = now + 10000000000u};
			assert_int_equal(ft_machine_run(m, &limits, &wake), FT_STOP_IDLE);
			ran += ft_machine_vtime(m) - now;
		}
		printf("%u processors: idle after %llu us\n", vcpus, (unsigned long long)ran / 10000);
		/* KVM alone says so once in a second. */
		assert_true(ran < 5000000000u);
		if (vcpus > 1) /* one alone is not told what the guest expects */
			good(m);
		ft_machine_destroy(m);
	}
}

static void code_is_changed_under_them(void **state)
{
	struct ft_machine *m = boot(2, 2);
	assert_true(all_count(m, 2, 100));
	box_of(m)->command = MAILBOX_PATCH;
	for (unsigned n = 0; n < 20; n++)
		assert_true(all_count(m, 2, 50));
	printf("%llu breakpoints met\n", (unsigned long long)box_of(m)->traps);
	box_of(m)->command = MAILBOX_WORK;
	assert_true(all_count(m, 2, 100));
	good(m);
	ft_machine_destroy(m);
}

static bool well(struct ft_machine *m)
{
	return !box_of(m)->backwards && !box_of(m)->wrong && !box_of(m)->lost;
}

static void fork_and_go_on(struct ft_machine *m)
{
	struct ft_engine_options options = {.native = native};
	struct ft_error err = {0};
	int status;
	assert_true(all_count(m, 2, 100));
	assert_int_equal(ft_machine_stand_by(m, &ft_engine_kvm, &options, &err), 0);
	for (unsigned n = 0; n < 5; n++) {
		slice(m, NULL);
		m->engine_ops->before_fork(m->engine);
		assert_int_equal(m->error.code, 0);
		uint64_t hash = ft_machine_hash(m);
		pid_t pid = fork();
		if (!pid) {
			bool same = hash == ft_machine_hash(m), over = !ft_machine_take_over(m, &err);
			m->clock.mode = FT_CLOCK_FREE;
			bool on = over && all_count(m, 2, 200);
			if (!same || !over || !on || !well(m))
				printf("fork: same %d, engine %d (%s), goes on %d, %llu backwards, %llu wrong, %llu lost\n", same, over, err.text, on,
				       (unsigned long long)box_of(m)->backwards, (unsigned long long)box_of(m)->wrong,
				       (unsigned long long)box_of(m)->lost);
			fflush(stdout);
			_exit(!same || !on || !well(m));
		}
		assert_true(all_count(m, 2, 200));
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
	}
	good(m);
}

static void a_fork_goes_on_and_so_does_its_parent(void **state)
{
	struct ft_machine *m = boot(2, 2);
	fork_and_go_on(m);
	ft_machine_destroy(m);
}

/* QEMU's emulation lets the guest's XSETBV pass by KVM, which then puts back what it knows: it is told before. */
static void tell_xcr0(struct ft_machine *m)
{
	struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs[0] = {.xcr = 0, .value = 7}};
	for (unsigned i = 0; i < m->vcpus; i++)
		assert_int_equal(ioctl(m->engine->vcpu[i].fd, KVM_SET_XCRS, &xcrs), 0);
}

/* The host's own processor: registers that no portable guest has are each side's own, in forks, too. */
static void own_registers_are_kept(void **state)
{
	struct ft_engine_options portable = {0};
	struct ft_error err = {0};
	uint8_t *bytes;
	size_t length;
	native = true;
	struct ft_machine *m = boot(2, 2);
	tell_xcr0(m);
	fork_and_go_on(m);
	native = false;
	assert_true(box_of(m)->wide[0] && box_of(m)->wide[1]);
	assert_int_equal(ft_state_save(m, &bytes, &length, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "portable: false"));
	assert_int_equal(ft_machine_stand_by(m, &ft_engine_soft, &portable, &err), -EINVAL);
	assert_int_equal(ft_machine_stand_by(m, &ft_engine_kvm, &portable, &err), -EINVAL);
	ft_machine_destroy(m);
	/* Nobody else has them. */
	m = boot(2, 2);
	assert_true(all_count(m, 2, 10));
	assert_false(box_of(m)->wide[0] || box_of(m)->wide[1]);
	ft_machine_destroy(m);
}

static void any_of_them_ends_it(void **state)
{
	for (unsigned n = 0; n < 2; n++) {
		struct ft_machine *m = boot(2, 2);
		assert_true(all_count(m, 2, 10));
		box_of(m)->command = n ? MAILBOX_FAULT : MAILBOX_RESET;
		enum ft_stop stop = FT_STOP_COUNT;
		for (unsigned i = 0; i < LOOKS && stop != FT_STOP_RESET; i++)
			stop = slice(m, NULL);
		assert_int_equal(stop, FT_STOP_RESET);
		assert_int_equal(m->reset, n ? FT_RESET_TRIPLE_FAULT : FT_RESET_REBOOT);
		ft_machine_destroy(m);
	}
}

static void soft_has_one(void **state)
{
	struct ft_machine *m = boot(2, 2);
	struct ft_engine_options options = {0};
	struct ft_error err = {0};
	assert_int_equal(ft_machine_stand_by(m, &ft_engine_soft, &options, &err), -EINVAL);
	assert_non_null(strstr(err.text, "engine soft has one processor, not 2"));
	ft_machine_destroy(m);
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 64;
	guest = argv[1];
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	if (access("/dev/kvm", R_OK | W_OK))
		return 77;
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(all_of_them_work),
	    cmocka_unit_test(a_stop_stops_all),
	    cmocka_unit_test(a_saved_one_goes_on),
	    cmocka_unit_test(idle_is_when_all_are),
	    cmocka_unit_test(a_halt_ends_the_slice),
	    cmocka_unit_test(code_is_changed_under_them),
	    cmocka_unit_test(a_fork_goes_on_and_so_does_its_parent),
	    cmocka_unit_test(own_registers_are_kept),
	    cmocka_unit_test(any_of_them_ends_it),
	    cmocka_unit_test(soft_has_one),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
