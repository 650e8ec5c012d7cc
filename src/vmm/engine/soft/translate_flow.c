/* Stack, calls, jumps, and the ways out of a block. Guest RSP changes only behind the access that may fault. */
#include "vmm/engine/soft/system.h"
#include "vmm/engine/soft/translate.h"

static bool special(int r)
{
	return r == R_RSP || r == R_RCX || r == R_R15;
}

static const struct guest_memory stack_top = {R_RSP, R_NONE, 0, -1, false, true, 0};

static void emit_sized(struct work *w, unsigned size, uint8_t opcode, unsigned reg, struct emit_memory m)
{
	if (size == 2)
		emit_8(&w->e, 0x66);
	uint8_t rex = emit_rex(size == 8, reg, &m);
	if (rex != 0x40)
		emit_8(&w->e, rex);
	emit_8(&w->e, opcode);
	emit_operand(&w->e, reg, &m);
}

static void load_sized(struct work *w, unsigned size, unsigned reg, struct emit_memory from)
{
	emit_sized(w, size, 0x8b, reg, from);
}

static void store_sized(struct work *w, unsigned size, struct emit_memory to, unsigned reg)
{
	emit_sized(w, size, 0x89, reg, to);
}

static uint64_t signed_immediate(const struct guest_insn *g)
{
	unsigned shift = 64u - g->z.raw.imm[0].size;
	return (uint64_t)((int64_t)(g->z.raw.imm[0].value.u << shift) >> shift);
}

static uint64_t page_of(uint64_t rip)
{
	return rip & ~(uint64_t)(FT_PAGE_SIZE - 1);
}

/* ---- Ways out ------------------------------------------------------------------------------------------------ */

static bool linkable(const struct work *w, uint64_t target)
{
	return !w->unchained && w->block->gpa2 == UINT64_MAX && page_of(target) == page_of(w->block->rip);
}

static struct stub *add_exit(struct work *w, enum stub_kind kind, uint8_t *site, uint64_t target)
{
	struct stub *s = &w->stub[w->stubs++];
	*s = (struct stub){.kind = (uint8_t)kind, .insn = (uint8_t)w->index, .site = site, .target = target};
	return s;
}

/* R15: where to. */
static void emit_indirect(struct work *w)
{
	enum soft_thunk thunk = w->unchained ? SOFT_THUNK_JUMP
				: w->user    ? SOFT_THUNK_LOOKUP_USER
					     : SOFT_THUNK_LOOKUP;
	emit_jump_to(&w->e, w->blocks->code + w->blocks->thunk[thunk]);
}

/* Where a jump to R15 was, for the fault that a non-canonical target is: an offset in the code cache, 0 for none. */
static void emit_site(struct work *w, uint32_t site)
{
	struct emit_memory at = SLOT(spill[0]);
	emit_8(&w->e, 0xc7);
	emit_operand(&w->e, 0, &at);
	emit_32(&w->e, site);
}

/* As above, for a target that the guest has computed. */
static void emit_computed(struct work *w)
{
	emit_site(w, (uint32_t)(w->e.at - w->blocks->code));
	emit_indirect(w);
}

void soft_emit_exit_away(struct work *w, uint64_t target)
{
	if (!soft_canonical(target))
		emit_site(w, 0);
	emit_mov_immediate(&w->e, R_R15, target);
	emit_indirect(w);
}

void soft_emit_exit(struct work *w, uint64_t target)
{
	if (linkable(w, target))
		add_exit(w, STUB_LINK, emit_jump(&w->e), target);
	else
		soft_emit_exit_away(w, target);
}

static void emit_link_stub(struct work *w, uint8_t *site, uint64_t target)
{
	struct soft_blocks *b = w->blocks;
	uint32_t n = b->link_used++;
	b->link[n] = (struct soft_link){(uint32_t)(site - b->code), soft_block_index(b, w->block), target};
	emit_mov_ecx(&w->e, n);
	emit_jump_to(&w->e, b->code + b->thunk[SOFT_THUNK_LINK]);
}

void soft_emit_stubs(struct work *w)
{
	struct emit *e = &w->e;
	unsigned stubs = w->stubs;
	for (unsigned i = 0; i < stubs; i++) {
		struct stub *s = &w->stub[i];
		emit_patch(s->site, e->at);
		unsigned rest = w->index - s->insn - 1u;
		switch ((enum stub_kind)s->kind) {
		case STUB_MEMORY:
		case STUB_MEMORY_SIMPLE:
			if (s->kind == STUB_MEMORY_SIMPLE)
				emit_lea(e, R_R15, s->ea);
			emit_mov_ecx(e, s->info);
			emit_call_to(e, w->blocks->code + w->blocks->thunk[SOFT_THUNK_MEMORY]);
			if (s->kind == STUB_MEMORY_SIMPLE)
				emit_mov(e, R_R15, R_RCX);
			emit_jump_to(e, s->back);
			break;
		case STUB_SIDE:
			if (rest) {
				emit_load(e, R_RCX, SLOT(count));
				emit_lea(e, R_RCX, emit_at(R_RCX, -(int32_t)rest));
				emit_store(e, SLOT(count), R_RCX);
			}
			if (!linkable(w, s->target)) {
				soft_emit_exit_away(w, s->target);
				break;
			}
			emit_link_stub(w, rest ? emit_jump(e) : s->site, s->target);
			if (rest)
				emit_patch(w->blocks->code + w->blocks->link[w->blocks->link_used - 1].site,
					   e->at - 10);
			break;
		case STUB_LINK:
			emit_link_stub(w, s->site, s->target);
			break;
		}
	}
}

/* ---- Stack --------------------------------------------------------------------------------------------------- */

/* Checks a push of `size` bytes: R15 is the new RSP, the operand returned is [rcx+r15]. */
static struct emit_memory push_check(struct work *w, unsigned size)
{
	struct guest_memory m = stack_top;
	m.displacement = -(int64_t)size;
	soft_emit_address(w, &m, 0);
	return soft_emit_check(w, size, SOFT_INFO_WRITE | SOFT_INFO_STACK);
}

static void push_done(struct work *w, unsigned size)
{
	emit_store(&w->e, SLOT_GPR(R_RSP), R_R15);
	soft_emit_commit(w, size);
}

/* Pushes a slot of struct soft_cpu, or (value_rsp) guest RSP as it was. */
static void push_slot(struct work *w, unsigned size, struct emit_memory slot, bool value_rsp)
{
	struct emit *e = &w->e;
	emit_lea(e, R_RCX, push_check(w, size));
	emit_store(e, SLOT_GPR(R_RSP), R_R15);
	if (value_rsp)
		emit_lea(e, R_R15, emit_at(R_R15, (int32_t)size));
	else
		emit_load(e, R_R15, slot);
	store_sized(w, size, emit_at(R_RCX, 0), R_R15);
	soft_emit_commit(w, size);
}

static void push_immediate(struct work *w, unsigned size, uint64_t value)
{
	struct emit *e = &w->e;
	struct emit_memory at = push_check(w, size);
	if (size == 2 || value == (uint64_t)(int64_t)(int32_t)value) {
		emit_sized(w, size, 0xc7, 0, at);
		if (size == 2)
			emit_16(e, (uint16_t)value);
		else
			emit_32(e, (uint32_t)value);
		push_done(w, size);
		return;
	}
	emit_lea(e, R_RCX, at);
	emit_store(e, SLOT_GPR(R_RSP), R_R15);
	emit_mov_immediate(e, R_R15, value);
	emit_store(e, emit_at(R_RCX, 0), R_R15);
	soft_emit_commit(w, size);
}

/* The value of a memory operand goes to spill[2]. */
static void fetch_operand(struct work *w, unsigned size)
{
	const struct guest_insn *g = w->insn;
	struct emit_memory at = soft_emit_access(w, &g->memory, size,
						 SOFT_INFO_READ | (g->memory.stack ? SOFT_INFO_STACK : 0), 0);
	load_sized(w, size, R_RCX, at);
	store_sized(w, size, SLOT(spill[2]), R_RCX);
}

static unsigned stack_size(const struct guest_insn *g)
{
	return g->z.operand_width == 16 ? 2 : 8;
}

static void emit_push(struct work *w)
{
	const struct guest_insn *g = w->insn;
	unsigned size = stack_size(g);
	const ZydisDecodedOperand *o = &g->operand[0];
	if (g->has_memory) {
		fetch_operand(w, size);
		push_slot(w, size, SLOT(spill[2]), false);
	} else if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		push_immediate(w, size, signed_immediate(g));
	} else if (ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_SEGMENT) {
		soft_emit_operation(w, SOFT_OP_PUSH_SEG, 0);
	} else {
		int r = g->embedded >= 0 ? g->embedded : g->rm;
		if (special(r)) {
			push_slot(w, size, SLOT_GPR(r), r == R_RSP);
		} else {
			store_sized(w, size, push_check(w, size), (unsigned)r);
			push_done(w, size);
		}
	}
}

static struct emit_memory pop_check(struct work *w, unsigned size)
{
	soft_emit_address(w, &stack_top, 0);
	return soft_emit_check(w, size, SOFT_INFO_READ | SOFT_INFO_STACK);
}

/* POP to memory: the address is computed with RSP as it is afterwards (SDM Vol. 2B, POP). */
static void emit_pop_memory(struct work *w, unsigned size)
{
	const struct guest_insn *g = w->insn;
	struct emit *e = &w->e;
	load_sized(w, size, R_RCX, pop_check(w, size));
	store_sized(w, size, SLOT(spill[2]), R_RCX);
	struct emit_memory at = soft_emit_access(
	    w, &g->memory, size, SOFT_INFO_WRITE | (g->memory.stack ? SOFT_INFO_STACK : 0), (int32_t)size);
	emit_lea(e, R_RCX, at);
	emit_load(e, R_R15, SLOT(spill[2]));
	store_sized(w, size, emit_at(R_RCX, 0), R_R15);
	soft_emit_commit(w, size);
	emit_load(e, R_R15, SLOT_GPR(R_RSP));
	emit_lea(e, R_R15, emit_at(R_R15, (int32_t)size));
	emit_store(e, SLOT_GPR(R_RSP), R_R15);
}

static void emit_pop(struct work *w)
{
	const struct guest_insn *g = w->insn;
	struct emit *e = &w->e;
	unsigned size = stack_size(g);
	const ZydisDecodedOperand *o = &g->operand[0];
	if (g->has_memory) {
		emit_pop_memory(w, size);
		return;
	}
	if (ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_SEGMENT) {
		soft_emit_operation(w, SOFT_OP_POP_SEG, 0);
		return;
	}
	int r = g->embedded >= 0 ? g->embedded : g->rm;
	load_sized(w, size, special(r) ? R_RCX : (unsigned)r, pop_check(w, size));
	emit_lea(e, R_R15, emit_at(R_R15, (int32_t)size));
	emit_store(e, SLOT_GPR(R_RSP), R_R15);
	if (special(r))
		store_sized(w, size, SLOT_GPR(r), R_RCX);
}

static void emit_leave(struct work *w)
{
	struct emit *e = &w->e;
	unsigned size = stack_size(w->insn);
	struct guest_memory m = {R_RBP, R_NONE, 0, -1, false, true, 0};
	struct emit_memory at = soft_emit_access(w, &m, size, SOFT_INFO_READ | SOFT_INFO_STACK, 0);
	load_sized(w, size, R_RCX, at);
	emit_lea(e, R_R15, emit_at(R_RBP, (int32_t)size));
	emit_store(e, SLOT_GPR(R_RSP), R_R15);
	if (size == 2) {
		emit_8(e, 0x66); /* mov bp, cx */
		emit_8(e, 0x89);
		emit_8(e, 0xcd);
	} else {
		emit_mov(e, R_RBP, R_RCX);
	}
}

/* ---- Jumps --------------------------------------------------------------------------------------------------- */

static uint64_t relative_target(const struct guest_insn *g)
{
	return g->next + signed_immediate(g);
}

static bool far(const struct guest_insn *g)
{
	return g->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
}

static bool relative(const struct guest_insn *g)
{
	return g->operand[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
}

static void emit_call(struct work *w)
{
	const struct guest_insn *g = w->insn;
	struct emit *e = &w->e;
	w->done = true;
	if (far(g)) {
		soft_emit_operation(w, SOFT_OP_FAR_CALL, 0);
		soft_emit_exit(w, g->next);
		return;
	}
	if (relative(g)) {
		push_immediate(w, 8, g->next);
		soft_emit_exit(w, relative_target(g));
		return;
	}
	if (g->has_memory)
		emit_load(e, R_R15,
			  soft_emit_access(w, &g->memory, 8,
					   SOFT_INFO_READ | (g->memory.stack ? SOFT_INFO_STACK : 0), 0));
	else if (special(g->rm))
		emit_load(e, R_R15, SLOT_GPR(g->rm));
	else
		emit_mov(e, R_R15, (unsigned)g->rm);
	/* A call to nowhere pushes nothing: 17 equal bits on top, plus 1, are 1 or 0x20000. */
	emit_pext(e, R_RCX, R_R15, SLOT(canonical_mask[0]));
	emit_lea(e, R_RCX, emit_at(R_RCX, 1));
	emit_pext(e, R_RCX, R_RCX, SLOT(canonical_mask[1]));
	emit_store(e, SLOT(spill[2]), R_R15);
	uint8_t *good = emit_jrcxz(e);
	/* ... but where the stack would fault, that comes first. */
	push_check(w, 8);
	emit_load(e, R_R15, SLOT(spill[2]));
	emit_computed(w);
	emit_land(e, good);
	push_immediate(w, 8, g->next);
	emit_load(e, R_R15, SLOT(spill[2]));
	emit_indirect(w);
}

static void emit_jmp(struct work *w)
{
	const struct guest_insn *g = w->insn;
	struct emit *e = &w->e;
	if (far(g)) {
		w->done = true;
		soft_emit_operation(w, SOFT_OP_FAR_JMP, 0);
		soft_emit_exit(w, g->next);
	} else if (relative(g)) {
		uint64_t target = relative_target(g);
		/* Forward within the page: translation follows, no code at all. */
		w->goes_to = target;
		if (w->unchained || target < g->next || page_of(target) != page_of(w->block->rip) ||
		    w->block->gpa2 != UINT64_MAX) {
			w->done = true;
			soft_emit_exit(w, target);
		}
	} else {
		w->done = true;
		if (g->has_memory)
			load_sized(w, 8, R_R15,
				   soft_emit_access(w, &g->memory, 8,
						    SOFT_INFO_READ | (g->memory.stack ? SOFT_INFO_STACK : 0),
						    0));
		else if (special(g->rm))
			emit_load(e, R_R15, SLOT_GPR(g->rm));
		else
			emit_mov(e, R_R15, (unsigned)g->rm);
		emit_computed(w);
	}
}

static void emit_ret(struct work *w)
{
	const struct guest_insn *g = w->insn;
	struct emit *e = &w->e;
	w->done = true;
	if (far(g)) {
		soft_emit_operation(w, SOFT_OP_FAR_RET, 0);
		soft_emit_exit(w, g->next);
		return;
	}
	int32_t release = g->z.raw.imm[0].size ? (int32_t)(g->z.raw.imm[0].value.u & 0xffff) : 0;
	emit_load(e, R_RCX, pop_check(w, 8));
	emit_lea(e, R_R15, emit_at(R_R15, 8 + release));
	emit_store(e, SLOT_GPR(R_RSP), R_R15);
	emit_mov(e, R_R15, R_RCX);
	emit_computed(w);
}

static void emit_jcc(struct work *w)
{
	const struct guest_insn *g = w->insn;
	uint64_t target = relative_target(g);
	add_exit(w, STUB_SIDE, emit_jump_if(&w->e, g->z.opcode & 15u), target);
	/* A loop's end, rather: what follows it is less likely. */
	if (target <= g->rip) {
		w->done = true;
		soft_emit_exit(w, g->next);
	}
}

/* LOOP, LOOPE, LOOPNE, JRCXZ, JECXZ. */
static void emit_loop(struct work *w)
{
	const struct guest_insn *g = w->insn;
	struct emit *e = &w->e;
	uint64_t target = relative_target(g);
	bool count32 = g->z.address_width == 32, zero = g->z.opcode == 0xe3;
	w->done = true;
	emit_sized(w, count32 ? 4 : 8, 0x8b, R_RCX, SLOT_GPR(R_RCX));
	if (zero) {
		uint8_t *taken = emit_jrcxz(e);
		soft_emit_exit(w, g->next);
		emit_land(e, taken);
		soft_emit_exit(w, target);
		return;
	}
	if (count32)
		emit_lea32(e, R_RCX, emit_at(R_RCX, -1));
	else
		emit_lea(e, R_RCX, emit_at(R_RCX, -1));
	emit_store(e, SLOT_GPR(R_RCX), R_RCX);
	uint8_t *out = emit_jrcxz(e);
	uint8_t *other = NULL;
	if (g->z.opcode == 0xe1) /* LOOPE leaves on NZ */
		other = emit_jump_if(e, 5);
	else if (g->z.opcode == 0xe0) /* LOOPNE on Z */
		other = emit_jump_if(e, 4);
	soft_emit_exit(w, target);
	emit_land(e, out);
	if (other)
		emit_patch(other, e->at);
	soft_emit_exit(w, g->next);
}

void soft_emit_flow(struct work *w)
{
	switch ((enum soft_class)w->insn->class->class) {
	case SOFT_CLASS_PUSH:
		emit_push(w);
		break;
	case SOFT_CLASS_POP:
		emit_pop(w);
		break;
	case SOFT_CLASS_LEAVE:
		emit_leave(w);
		break;
	case SOFT_CLASS_CALL:
		emit_call(w);
		break;
	case SOFT_CLASS_RET:
		emit_ret(w);
		break;
	case SOFT_CLASS_JMP:
		emit_jmp(w);
		break;
	case SOFT_CLASS_JCC:
		emit_jcc(w);
		break;
	case SOFT_CLASS_LOOP:
		emit_loop(w);
		break;
	default:
		soft_emit_operation(w, SOFT_OP_UD, 0);
		w->done = true;
		soft_emit_exit(w, w->insn->next);
		break;
	}
}
