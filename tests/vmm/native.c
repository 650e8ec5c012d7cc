#include "native.h"

#include <asm/prctl.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

/* Signal handlers have no context argument of ours, hence these. */
static struct {
	const struct user_case *now;
	struct user_state *end;
	ucontext_t home;
	uint8_t home_fx[512];
	volatile bool inside;
	bool late;
	struct sigaction engine[NSIG]; /* what faults outside of a case are for */
} run;

static uint8_t stack[128 << 10];

static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
			      REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

/* The first 416 bytes of the signal frame's FPU area are the legacy image; what follows belongs to the kernel. */
#define FX_LIVE 416

static void enter(int signal, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	const struct user_state *s = &run.now->start;
	memcpy(run.home.uc_mcontext.gregs, uc->uc_mcontext.gregs, sizeof(gregset_t));
	memcpy(run.home_fx, uc->uc_mcontext.fpregs, FX_LIVE);
	for (int i = 0; i < 16; i++)
		uc->uc_mcontext.gregs[order[i]] = (greg_t)s->gpr[i];
	uc->uc_mcontext.gregs[REG_RIP] = (greg_t)s->rip;
	uc->uc_mcontext.gregs[REG_EFL] = (greg_t)s->flags;
	memcpy(uc->uc_mcontext.fpregs, s->fx, FX_LIVE);
	/* XSAVE header, behind the legacy image: x87 and SSE are not in their initial state. */
	*(uint64_t *)(void *)((uint8_t *)uc->uc_mcontext.fpregs + 512) |= 3;
	run.inside = true;
}

static void leave(int signal, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	if (!run.inside) {
		if (run.engine[signal].sa_flags & SA_SIGINFO)
			run.engine[signal].sa_sigaction(signal, info, context);
		else if (signal != SIGALRM)
			sigaction(signal, &run.engine[signal], NULL); /* and again, with nobody to catch it */
		return;
	}
	struct user_state *e = run.end;
	for (int i = 0; i < 16; i++)
		e->gpr[i] = (uint64_t)uc->uc_mcontext.gregs[order[i]];
	e->rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
	e->flags = (uint64_t)uc->uc_mcontext.gregs[REG_EFL];
	memset(e->fx, 0, sizeof(e->fx));
	memcpy(e->fx, uc->uc_mcontext.fpregs, FX_LIVE);
	e->vector = (unsigned)uc->uc_mcontext.gregs[REG_TRAPNO];
	e->error = (uint32_t)uc->uc_mcontext.gregs[REG_ERR];
	e->address = (uint64_t)uc->uc_mcontext.gregs[REG_CR2];
	run.late = signal == SIGALRM;
	run.inside = false;
	memcpy(uc->uc_mcontext.gregs, run.home.uc_mcontext.gregs, sizeof(gregset_t));
	memcpy(uc->uc_mcontext.fpregs, run.home_fx, FX_LIVE);
	*(uint64_t *)(void *)((uint8_t *)uc->uc_mcontext.fpregs + 512) |= 3;
}

static int map(uint64_t at, size_t size, int protection)
{
	void *got = mmap((void *)at, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	return got == (void *)at ? 0 : -errno;
}

int native_open(void)
{
	int error = map(CASE_CODE, CASE_CODE_SIZE, PROT_READ | PROT_EXEC);
	if (!error)
		error = map(CASE_DATA, CASE_DATA_SIZE, PROT_READ | PROT_WRITE);
	if (!error)
		error = map(CASE_CONST, CASE_CONST_SIZE, PROT_READ);
	if (error)
		return error;
	stack_t alternate = {.ss_sp = stack, .ss_size = sizeof(stack)};
	stack_t before;
	if (sigaltstack(NULL, &before) || ((before.ss_flags & SS_DISABLE) && sigaltstack(&alternate, NULL)))
		return -errno;
	struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK, .sa_sigaction = enter};
	sigfillset(&action.sa_mask);
	if (sigaction(SIGUSR1, &action, NULL))
		return -errno;
	action.sa_sigaction = leave;
	static const int ends[] = {SIGTRAP, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGALRM};
	for (unsigned i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
		if (sigaction(ends[i], &action, &run.engine[ends[i]]))
			return -errno;
	return syscall(SYS_arch_prctl, ARCH_SET_GS, CASE_GS_BASE) ? -errno : 0;
}

int native_run(const struct user_case *c, struct user_state *end, uint8_t *data)
{
	if (mprotect((void *)CASE_CODE, CASE_CODE_SIZE, PROT_READ | PROT_WRITE) ||
	    mprotect((void *)CASE_CONST, CASE_CONST_SIZE, PROT_READ | PROT_WRITE))
		return -errno;
	memcpy((void *)CASE_CODE, c->code, CASE_CODE_SIZE);
	memcpy((void *)CASE_CONST, c->constant, CASE_CONST_SIZE);
	memcpy((void *)CASE_DATA, c->data, CASE_DATA_SIZE);
	if (mprotect((void *)CASE_CODE, CASE_CODE_SIZE, PROT_READ | PROT_EXEC) ||
	    mprotect((void *)CASE_CONST, CASE_CONST_SIZE, PROT_READ))
		return -errno;
	run.now = c;
	run.end = end;
	run.late = false;
	struct itimerval bound = {.it_value = {.tv_sec = 1}}, off = {.it_value = {0}};
	setitimer(ITIMER_REAL, &bound, NULL);
	/* Directly, so that no library code runs between the signal and the case. */
	syscall(SYS_tgkill, getpid(), (pid_t)syscall(SYS_gettid), SIGUSR1);
	setitimer(ITIMER_REAL, &off, NULL);
	memcpy(data, (void *)CASE_DATA, CASE_DATA_SIZE);
	return run.late ? -ETIME : 0;
}

bool native_takes_any_stack(void)
{
	static struct user_case c;
	static uint8_t data[CASE_DATA_SIZE];
	struct user_state end;
	memset(c.code, 0xcc, sizeof(c.code));
	c.start = (struct user_state){.rip = CASE_CODE, .flags = 0x202, .gpr[4] = 1ull << 62};
	c.start.fx[1] = 0x03;
	c.start.fx[0] = 0x7f;
	c.start.fx[24] = 0x80;
	c.start.fx[25] = 0x1f;
	return !native_run(&c, &end, data) && end.vector == 3;
}
