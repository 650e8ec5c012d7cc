/*
 * Sets the system clock to the RTC, to the millisecond. The kernel takes whole seconds from it at boot, and hwclock is late by
 * what it does between the tick and the setting. Here the tick lies between two looks; how far they are apart (a busy CPU, a
 * busy host) is how wrong the clock may be, so further ticks are watched until two looks were close together.
 */
#include <fcntl.h>
#include <linux/rtc.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MS          1000000ll
#define LOOKS       3000 /* a millisecond each: the RTC stands still if none of them sees it tick */
#define TICKS       30
#define GOOD_ENOUGH (2 * MS)

static long long monotonic(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 * MS + now.tv_nsec;
}

static int rest(long long ns)
{
	const struct timespec pause = {.tv_nsec = ns};
	return nanosleep(&pause, NULL);
}

/* Waits for a tick: the second that began, and between which two moments it did. */
static int wait_for_tick(int fd, time_t *second, long long *from, long long *to)
{
	struct rtc_time was, is;
	*from = monotonic();
	if (ioctl(fd, RTC_RD_TIME, &was))
		return -1;
	for (int i = 0; i < LOOKS; i++) {
		long long before = monotonic();
		if (ioctl(fd, RTC_RD_TIME, &is) == 0 && is.tm_sec != was.tm_sec) {
			struct tm tm = {.tm_sec = is.tm_sec, .tm_min = is.tm_min, .tm_hour = is.tm_hour,
					.tm_mday = is.tm_mday, .tm_mon = is.tm_mon, .tm_year = is.tm_year};
			*second = timegm(&tm);
			*to = monotonic();
			return 0;
		}
		*from = before;
		rest(MS);
	}
	return -1;
}

int main(void)
{
	const struct sched_param first = {.sched_priority = 50};
	long long best = 1ll << 62, from, to;
	time_t second;
	int fd = open("/dev/rtc0", O_RDONLY | O_CLOEXEC);

	sched_setscheduler(0, SCHED_FIFO, &first);
	mlockall(MCL_CURRENT | MCL_FUTURE);
	for (int tick = 0; tick < TICKS && best > GOOD_ENOUGH; tick++) {
		if (fd < 0 || wait_for_tick(fd, &second, &from, &to)) {
			perror("clock: the RTC does not tick");
			return 1;
		}
		if (to - from < best) {
			best = to - from;
			long long since = monotonic() - (from + to) / 2;
			const struct timespec now = {second + since / (1000 * MS), since % (1000 * MS)};
			if (clock_settime(CLOCK_REALTIME, &now)) {
				perror("clock: setting it");
				return 1;
			}
		}
		if (best > GOOD_ENOUGH)
			rest(950 * MS);
	}
	return 0;
}
