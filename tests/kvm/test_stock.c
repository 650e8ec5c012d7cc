/* A stock kernel on engine kvm behind the real vmm process, with the CPU model that goes everywhere and with the host's own processor: what it
 * makes of it. Its TSC is what it tells the time by, at the very frequency that it has. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "../guest/ask.h"
#include "vmm/engine/kvm/host.h"

/* In the outer machine XCR0 is not the guest's own (QEMU's mistake, see tests/kvm/test_vcpus.c), so nothing may be in it. */
#define COMMAND_LINE \
	"console=ttyS0 root=/dev/vda rw psi=0 nowatchdog sysctl.vm.compaction_proactiveness=0 sysctl.vm.stat_interval=120 noxsave"

static struct stand s;

static void boot(bool portable)
{
	struct peer p;
	assert_int_equal(stand_spawn(&s, getenv("FORETASTE_VMM"), NULL), 0);
	s.kvm = true;
	s.clone_kvm = s.native = !portable;
	assert_int_equal(stand_configure(&s, getenv("FORETASTE_IMAGES"), COMMAND_LINE, 256, 1), 0);
	stand_link(&s);
	peer_open(&p, &s, 49999);
	if (!stand_wait_console(&s, "foretaste-guest: services up", peer_meanwhile, &p))
		fail_msg("%s", s.log);
	peer_close(&p);
}

static void shut(void)
{
	stand_end(&s);
	assert_true(WIFEXITED(s.status) && WEXITSTATUS(s.status) == 0);
}

/* kHz, as the kernel says that it detected it: of the TSC, where that is not what it takes to be the processor's. */
static unsigned detected(void)
{
	unsigned mhz = 0, khz = 0;
	const char *at = strstr(s.log, "tsc: Detected "), *tsc = at ? strstr(at, " MHz TSC") : NULL;
	if (at && tsc)
		while (strstr(at + 1, "tsc: Detected ") && strstr(at + 1, "tsc: Detected ") < tsc)
			at = strstr(at + 1, "tsc: Detected ");
	if (!at || sscanf(at, "tsc: Detected %u.%3u MHz", &mhz, &khz) != 2)
		fail_msg("the kernel says nothing of its TSC:\n%s", s.log);
	return mhz * 1000 + khz;
}

static void check(bool portable)
{
	struct ft_error err = {0};
	double mips;
	uint32_t khz;
	char word[64];
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	assert_true(kvm >= 0);
	assert_int_equal(ft_kvm_host_speed(kvm, &mips, &khz, &err), 0);
	close(kvm);
	boot(portable);
	assert_int_equal(detected(), khz);
	ask_live(&s, 50000, "echo it is $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)", word, sizeof(word));
	if (strcmp(word, "tsc") && strcmp(word, "tsc-early")) /* which becomes the other one in time */
		fail_msg("the kernel's clock is %s", word);
	/* What the host has and the model has not. */
	ask_live(&s, 50001, "echo it is $(grep -cw aes /proc/cpuinfo)", word, sizeof(word));
	assert_string_equal(word, portable ? "0" : "1");
	shut();
}

static void a_portable_guest(void **state)
{
	check(true);
}

static void one_with_the_host_s_own_processor(void **state)
{
	check(false);
}

int main(int argc, char **argv)
{
	if (!getenv("FORETASTE_IMAGES") || !getenv("FORETASTE_VMM"))
		return 77;
	signal(SIGPIPE, SIG_IGN);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(one_with_the_host_s_own_processor),
	    cmocka_unit_test(a_portable_guest),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
