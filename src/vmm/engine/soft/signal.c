/* Exceptions that the processor raises in translated code: they are the guest's. #DE, #MF and #XM arrive as SIGFPE, #GP of
 * a misaligned SSE operand as SIGSEGV, #UD of an instruction the host lacks as SIGILL. A page fault there is no guest's:
 * every access was checked, so the engine is wrong and the machine stops. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "vmm/engine/soft/run.h"
#include "vmm/engine/soft/system.h"

#define STACK_SIZE (64u << 10)
#define GUARD      4096u

/* A signal handler has no context argument of ours. */
static _Thread_local struct soft_cpu *running;
static _Thread_local bool prepared;

static void leave_with(struct soft_cpu *cpu, ucontext_t *uc, enum soft_leave reason)
{
	const struct soft_blocks *b = cpu->blocks;
	cpu->reason = reason;
	uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)(b->code + b->thunk[SOFT_THUNK_FAULT]);
	uc->uc_mcontext.gregs[REG_RSP] = (greg_t)((uintptr_t)cpu + SOFT_HOT);
}

static void take_exception(struct soft_cpu *cpu, ucontext_t *uc, const uint8_t *at)
{
	unsigned vector = (unsigned)uc->uc_mcontext.gregs[REG_TRAPNO];
	bool guests = vector == SOFT_DE || vector == SOFT_MF || vector == SOFT_XM || vector == SOFT_GP ||
		      vector == SOFT_UD;
	if (!guests || !soft_locate(cpu, at)) {
		ft_error_set(
		    &cpu->m->error, -EFAULT,
		    "translated code raised exception %u at offset %llx of the code cache (address %llx)",
		    vector, (unsigned long long)(at - cpu->blocks->code),
		    (unsigned long long)uc->uc_mcontext.gregs[REG_CR2]);
		leave_with(cpu, uc, SOFT_LEAVE_ERROR);
		return;
	}
	if (vector == SOFT_XM && !(cpu->cr4 & CR4_OSXMMEXCPT))
		vector = SOFT_UD; /* SDM Vol. 3A 2.5 */
	soft_raise(cpu, (uint8_t)vector, vector == SOFT_GP, 0, 0);
	leave_with(cpu, uc, SOFT_LEAVE_FAULT);
}

static void handle(int number, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	struct soft_cpu *cpu = running;
	const uint8_t *at = (const uint8_t *)(uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
	if (cpu && at >= cpu->blocks->code && at < cpu->blocks->code + cpu->blocks->most[1].code) {
		take_exception(cpu, uc, at);
		return;
	}
	/* Not ours: happens again, with the default action. */
	struct sigaction action = {.sa_handler = SIG_DFL};
	sigaction(number, &action, NULL);
}

/* Translated code has no stack that a handler may use. The stack belongs to the thread and outlives the engine. */
static int prepare_thread(void)
{
	stack_t now;
	if (prepared)
		return 0;
	if (sigaltstack(NULL, &now))
		return -errno;
	if (!(now.ss_flags & SS_DISABLE)) {
		prepared = true;
		return 0;
	}
	uint8_t *stack =
	    mmap(NULL, GUARD + STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stack == MAP_FAILED)
		return -errno;
	mprotect(stack, GUARD, PROT_NONE);
	stack_t alternate = {.ss_sp = stack + GUARD, .ss_size = STACK_SIZE};
	if (sigaltstack(&alternate, NULL)) {
		int error = errno;
		munmap(stack, GUARD + STACK_SIZE);
		return -error;
	}
	prepared = true;
	return 0;
}

/* Also prepares this thread: the one that makes a machine usually runs it, and may be confined in between. A clone of a
 * machine that has not run yet may not call sigaltstack. */
int soft_signals_install(void)
{
	static const int numbers[] = {SIGFPE, SIGSEGV, SIGILL, SIGBUS};
	struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (sigaction(numbers[i], &action, NULL))
			return -errno;
	return prepare_thread();
}

int soft_signals_enter(struct soft_cpu *cpu)
{
	int error = prepare_thread();
	if (error)
		return error;
	running = cpu;
	return 0;
}

void soft_signals_leave(void)
{
	running = NULL;
}
