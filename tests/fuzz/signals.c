#include "signals.h"

#include <signal.h>

#include "input.h"

static const int faults[] = {SIGFPE, SIGSEGV, SIGILL, SIGBUS};
#define FAULTS (sizeof(faults) / sizeof(faults[0]))

static struct sigaction fuzzers[FAULTS], engines[FAULTS];

static void handle(int number, siginfo_t *info, void *context)
{
	unsigned n = 0;
	while (faults[n] != number)
		n++;
	struct sigaction now;
	engines[n].sa_sigaction(number, info, context);
	/* The engine gives up what is not its own by the default action. */
	sigaction(number, NULL, &now);
	if (now.sa_handler == SIG_DFL)
		fuzzers[n].sa_sigaction(number, info, context);
}

void signals_before(void)
{
	for (unsigned n = 0; n < FAULTS; n++)
		sigaction(faults[n], NULL, &fuzzers[n]);
}

void signals_after(void)
{
	static const int others[] = {SIGALRM, SIGINT, SIGTERM, SIGXFSZ, SIGUSR1, SIGUSR2};
	for (unsigned n = 0; n < FAULTS; n++) {
		struct sigaction now;
		sigaction(faults[n], NULL, &now);
		if (now.sa_sigaction == handle)
			continue;
		engines[n] = now;
		now.sa_sigaction = handle;
		sigaction(faults[n], &now, NULL);
	}
	for (unsigned n = 0; n < sizeof(others) / sizeof(others[0]); n++) {
		struct sigaction now;
		sigaction(others[n], NULL, &now);
		now.sa_flags |= SA_ONSTACK;
		if (now.sa_handler != SIG_DFL && now.sa_handler != SIG_IGN)
			sigaction(others[n], &now, NULL);
	}
}
