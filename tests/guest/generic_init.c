/* The init of a guest that shows its random numbers, as any process gets them, a few times a second. */
#include <stdint.h>
#include <stdio.h>
#include <sys/random.h>
#include <time.h>

int main(void)
{
	for (unsigned count = 0;; count++) {
		uint64_t bytes[2];
		if (getrandom(bytes, sizeof(bytes), 0) == sizeof(bytes))
			printf("random %u %016llx%016llx\n", count, (unsigned long long)bytes[0], (unsigned long long)bytes[1]);
		fflush(stdout);
		nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
	}
}
