/* The fixed code at the start of the code cache: ways between translated code and C.
 *
 * Into C, every guest register and the flags go to struct soft_cpu, and RSP becomes the host's stack again; the callee
 * may change all of the guest's state. The stack frame that ENTER leaves on the host stack has the CPU's address on top. */
#include "vmm/engine/soft/block.h"
#include "vmm/engine/soft/emit.h"

/* Slots seen from host RSP + `pushed` bytes below its usual place. */
static struct emit_memory slot(size_t offset, int pushed)
{
	return emit_at(R_RSP, (int32_t)offset - SOFT_HOT + pushed);
}

#define FIELD(field, pushed) slot(offsetof(struct soft_cpu, field), pushed)

static bool native(int r)
{
	return r != R_RSP && r != R_RCX && r != R_R15;
}

static void emit_bytes(struct emit *e, const uint8_t *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		emit_8(e, bytes[i]);
}
#define BYTES(e, ...) emit_bytes(e, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* ECX ends up in ESI, R15 in RDX. */
static void save(struct emit *e, int pushed)
{
	for (int r = 0; r < 16; r++)
		if (native(r))
			emit_store(e, slot(offsetof(struct soft_cpu, gpr) + 8 * (size_t)r, pushed),
				   (unsigned)r);
	emit_mov32(e, R_RSI, R_RCX);
	emit_mov(e, R_RDX, R_R15);
	BYTES(e, 0x9f);             /* lahf */
	BYTES(e, 0x0f, 0x90, 0xc0); /* seto al */
	BYTES(e, 0x0f, 0xb6, 0xcc); /* movzx ecx, ah */
	BYTES(e, 0x0f, 0xb6, 0xc0); /* movzx eax, al */
	BYTES(e, 0xc1, 0xe0, 11);   /* shl eax, 11 */
	BYTES(e, 0x09, 0xc1);       /* or ecx, eax */
	emit_load(e, R_RAX, FIELD(flags, pushed));
	BYTES(e, 0x48, 0x25); /* and rax, imm32 */
	emit_32(e, ~SOFT_FLAGS_ARITH);
	BYTES(e, 0x48, 0x09, 0xc8); /* or rax, rcx */
	emit_store(e, FIELD(flags, pushed), R_RAX);
}

static void restore(struct emit *e, int pushed)
{
	emit_load(e, R_RCX, FIELD(flags, pushed));
	BYTES(e, 0x89, 0xc8);     /* mov eax, ecx */
	BYTES(e, 0xc1, 0xe8, 11); /* shr eax, 11 */
	BYTES(e, 0x83, 0xe0, 1);  /* and eax, 1 */
	BYTES(e, 0x88, 0xcc);     /* mov ah, cl */
	BYTES(e, 0x04, 0x7f);     /* add al, 127: OF */
	BYTES(e, 0x9e);           /* sahf */
	for (int r = 0; r < 16; r++)
		if (native(r))
			emit_load(e, (unsigned)r,
				  slot(offsetof(struct soft_cpu, gpr) + 8 * (size_t)r, pushed));
}

static void back_to_caller(struct emit *e)
{
	BYTES(e, 0x5f);                   /* pop rdi */
	BYTES(e, 0x41, 0x5f, 0x41, 0x5e); /* pop r15; pop r14 */
	BYTES(e, 0x41, 0x5d, 0x41, 0x5c); /* pop r13; pop r12 */
	BYTES(e, 0x5d, 0x5b, 0xc3);       /* pop rbp; pop rbx; ret */
}

static void enter(struct emit *e)
{
	BYTES(e, 0x53, 0x55);                   /* push rbx; push rbp */
	BYTES(e, 0x41, 0x54, 0x41, 0x55);       /* push r12; push r13 */
	BYTES(e, 0x41, 0x56, 0x41, 0x57, 0x57); /* push r14; push r15; push rdi */
	emit_store(e, emit_at(R_RDI, offsetof(struct soft_cpu, host_sp)), R_RSP);
	emit_mov(e, R_R15, R_RSI);
	emit_lea(e, R_RSP, emit_at(R_RDI, SOFT_HOT));
	restore(e, 0);
	BYTES(e, 0x41, 0xff, 0xe7); /* jmp r15 */
}

/* A call to C and back to where translated code called, or out. address: RCX and R15 are given back. */
static void call_c(struct emit *e, uint64_t (*function)(struct soft_cpu *, uint32_t, uint64_t, const void *),
		   bool address)
{
	save(e, 8);
	emit_load(e, R_RCX, emit_at(R_RSP, 0));
	emit_lea(e, R_RDI, emit_at(R_RSP, 8 - SOFT_HOT));
	emit_load(e, R_RSP, emit_at(R_RDI, offsetof(struct soft_cpu, host_sp)));
	emit_mov_immediate(e, R_RAX, (uint64_t)(uintptr_t)function);
	BYTES(e, 0xff, 0xd0); /* call rax */
	emit_load(e, R_RDI, emit_at(R_RSP, 0));
	BYTES(e, 0x48, 0x85, 0xc0); /* test rax, rax */
	uint8_t *leave = emit_jump_if(e, 5);
	emit_lea(e, R_RSP, emit_at(R_RDI, SOFT_HOT - 8));
	restore(e, 8);
	if (address) {
		emit_load(e, R_RCX, FIELD(delta, 8));
		emit_load(e, R_R15, FIELD(address, 8));
	}
	BYTES(e, 0xc3);
	emit_patch(leave, e->at);
	back_to_caller(e);
}

/* Leaving for good: the reason, and its argument from RCX or R15. */
static void leave(struct emit *e, enum soft_leave reason, int argument)
{
	if (argument >= 0) {
		emit_store(e, FIELD(argument, 0), (unsigned)argument);
		struct emit_memory m = FIELD(reason, 0);
		emit_8(e, 0xc7); /* mov dword [m], imm32 */
		emit_operand(e, 0, &m);
		emit_32(e, (uint32_t)reason);
	}
	save(e, 0);
	emit_load(e, R_RSP, FIELD(host_sp, 0));
	back_to_caller(e);
}

/* RCX: four times the set of R15's target, to be scaled by 8. */
static void lookup_set(struct emit *e, enum soft_jump_cache cache)
{
	struct emit_memory mask = slot(offsetof(struct soft_cpu, jump_mask) + 8 * (size_t)cache, 0);
	struct emit_memory four = {R_NONE, R_RCX, 2, 0};
	emit_pext(e, R_RCX, R_R15, mask);
	emit_lea(e, R_RCX, four);
}

static void lookup(struct emit *e, const struct soft_cpu *cpu, unsigned user, const uint8_t *miss)
{
	const uint8_t *hot = (const uint8_t *)cpu + SOFT_HOT;
	enum soft_jump_cache cache = user ? SOFT_JUMPS_USER : SOFT_JUMPS_KERNEL;
	const struct soft_jump *way = cpu->blocks->jumps[cache].set[0];
	struct emit_memory sum = {R_RCX, R_R15, 0, 0};
	uint8_t *hit[2];
	_Static_assert(sizeof(cpu->blocks->jumps[0].set[0]) == 32, "what RCX is scaled to");
	for (unsigned i = 0; i < 2; i++) {
		struct emit_memory tag = {R_RSP, R_RCX, 3, (int32_t)((const uint8_t *)&way[i].tag - hot)};
		lookup_set(e, cache);
		emit_load(e, R_RCX, tag);
		emit_lea(e, R_RCX, sum);
		hit[i] = emit_jrcxz(e);
	}
	emit_jump_to(e, miss);
	for (unsigned i = 0; i < 2; i++) {
		struct emit_memory target = {R_RSP, R_RCX, 3, (int32_t)((const uint8_t *)&way[i].target - hot)};
		emit_land(e, hit[i]);
		lookup_set(e, cache);
		emit_8(e, 0xff); /* jmp [target] */
		emit_operand(e, 4, &target);
	}
}

void soft_thunks_make(struct soft_cpu *cpu)
{
	struct soft_blocks *blocks = cpu->blocks;
	struct emit e = {blocks->code};
	for (unsigned t = 0; t < SOFT_THUNKS; t++) {
		while ((uintptr_t)e.at % 64)
			emit_8(&e, 0xcc);
		blocks->thunk[t] = (uint32_t)(e.at - blocks->code);
		switch ((enum soft_thunk)t) {
		case SOFT_THUNK_MEMORY:
			call_c(&e, soft_on_memory, true);
			break;
		case SOFT_THUNK_SLOW:
			call_c(&e, soft_on_slow, true);
			break;
		case SOFT_THUNK_COMMIT:
			call_c(&e, soft_on_commit, false);
			break;
		case SOFT_THUNK_OPERATION:
			call_c(&e, soft_on_operation, false);
			break;
		case SOFT_THUNK_EXPIRED:
			leave(&e, SOFT_LEAVE_EXPIRED, R_RCX);
			break;
		case SOFT_THUNK_LINK:
			leave(&e, SOFT_LEAVE_LINK, R_RCX);
			break;
		case SOFT_THUNK_JUMP:
			leave(&e, SOFT_LEAVE_JUMP, R_R15);
			break;
		case SOFT_THUNK_FAULT:
			leave(&e, SOFT_LEAVE_FAULT, R_NONE);
			break;
		case SOFT_THUNK_LOOKUP:
		case SOFT_THUNK_LOOKUP_USER:
			lookup(&e, cpu, t == SOFT_THUNK_LOOKUP_USER,
			       blocks->code + blocks->thunk[SOFT_THUNK_JUMP]);
			break;
		case SOFT_THUNK_ENTER:
			enter(&e);
			break;
		case SOFT_THUNKS:
			break;
		}
	}
	blocks->thunk_end = (uint32_t)(e.at - blocks->code);
}
