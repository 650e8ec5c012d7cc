/* String instructions, with and without REP. One call handles what lies within one page of source and destination and
 * returns SOFT_AGAIN while RCX is not zero: registers always say how far it is, so a fault or an interrupt in between
 * finds what a processor would show. Where the pieces end depends on addresses alone.
 *
 * On RAM the host's own string instruction of the same element size does the work, which gets overlapping operands
 * and flags right by construction. */
#include "vmm/engine/soft/system.h"

struct string {
	unsigned size;
	bool back;               /* DF */
	uint64_t left;           /* elements */
	uint64_t most;           /* at once */
	uint64_t source, target; /* linear */
};

static uint64_t pointer(const struct soft_cpu *cpu, const struct soft_insn *insn, unsigned gpr)
{
	return soft_low(cpu->gpr[gpr], insn->address_size);
}

static struct string string_make(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	uint64_t base = insn->segment >= FT_FS ? cpu->segment[insn->segment].base : 0;
	return (struct string){.size = insn->operand_size,
			       .back = cpu->flags & SOFT_FLAG_DF,
			       .left = insn->repeat ? pointer(cpu, insn, FT_RCX) : 1,
			       /* A step, and a breakpoint, comes behind each. SDM Vol. 3B 18.3.1.4. */
			       .most = (cpu->flags & SOFT_FLAG_TF) || soft_has_breakpoints(cpu) ? 1 : UINT64_MAX,
			       .source = base + pointer(cpu, insn, FT_RSI),
			       .target = pointer(cpu, insn, FT_RDI)};
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Whole elements from va to the end of its page in the direction of travel. */
static uint64_t within_page(const struct string *string, uint64_t va)
{
	uint64_t offset = va & (FT_PAGE_SIZE - 1);
	if (offset + string->size > FT_PAGE_SIZE)
		return 0;
	return least(string->most, string->back ? offset / string->size + 1 : (FT_PAGE_SIZE - offset) / string->size);
}

static void advance(struct soft_cpu *cpu, const struct soft_insn *insn, unsigned gpr, uint64_t elements,
		    bool back)
{
	uint64_t bytes = elements * insn->operand_size;
	soft_set_gpr(cpu, gpr, insn->address_size, cpu->gpr[gpr] + (back ? -bytes : bytes));
}

/* `elements` are done. source, target: whether the instruction moves RSI and RDI. */
static enum soft_result finish(struct soft_cpu *cpu, const struct soft_insn *insn,
			       const struct string *string, uint64_t elements, bool source, bool target)
{
	if (source)
		advance(cpu, insn, FT_RSI, elements, string->back);
	if (target)
		advance(cpu, insn, FT_RDI, elements, string->back);
	if (!insn->repeat)
		return SOFT_NEXT;
	soft_set_gpr(cpu, FT_RCX, insn->address_size, cpu->gpr[FT_RCX] - elements);
	return string->left == elements ? SOFT_NEXT : SOFT_AGAIN;
}

/* ---- The host's instructions ---- */

#define EACH_SIZE(size, what)                                                                                \
	switch (size) {                                                                                      \
	case 1:                                                                                              \
		what("b");                                                                                   \
		break;                                                                                       \
	case 2:                                                                                              \
		what("w");                                                                                   \
		break;                                                                                       \
	case 4:                                                                                              \
		what("l");                                                                                   \
		break;                                                                                       \
	default:                                                                                             \
		what("q");                                                                                   \
	}

static void host_movs(void *target, const void *source, uint64_t n, unsigned size, bool back)
{
#define MOVS(suffix)                                                                                         \
	__asm__ volatile("test %b3, %b3; jz 1f; std; 1: rep movs" suffix "; cld"                             \
			 : "+D"(target), "+S"(source), "+c"(n)                                               \
			 : "r"(back)                                                                         \
			 : "memory", "cc")
	EACH_SIZE(size, MOVS)
#undef MOVS
}

static void host_stos(void *target, uint64_t value, uint64_t n, unsigned size, bool back)
{
#define STOS(suffix)                                                                                         \
	__asm__ volatile("test %b3, %b3; jz 1f; std; 1: rep stos" suffix "; cld"                             \
			 : "+D"(target), "+c"(n)                                                             \
			 : "a"(value), "r"(back)                                                             \
			 : "memory", "cc")
	EACH_SIZE(size, STOS)
#undef STOS
}

/* Compare and scan: elements left when it stopped; *flags as the last comparison set them. n is not 0. */
static uint64_t host_cmps(const void *target, const void *source, uint64_t n, unsigned size, bool back,
			  bool equal, uint64_t *flags)
{
#define CMPS(suffix)                                                                                         \
	__asm__ volatile("test %b4, %b4; jz 1f; std; 1:"                                                     \
			 "test %b5, %b5; jz 2f; repe cmps" suffix "; jmp 3f; 2: repne cmps" suffix           \
			 "; 3: cld; pushfq; pop %3"                                                          \
			 : "+D"(target), "+S"(source), "+c"(n), "=&r"(*flags)                                \
			 : "r"(back), "r"(equal)                                                             \
			 : "memory", "cc")
	EACH_SIZE(size, CMPS)
#undef CMPS
	return n;
}

static uint64_t host_scas(const void *target, uint64_t value, uint64_t n, unsigned size, bool back,
			  bool equal, uint64_t *flags)
{
#define SCAS(suffix)                                                                                         \
	__asm__ volatile("test %b4, %b4; jz 1f; std; 1:"                                                     \
			 "test %b5, %b5; jz 2f; repe scas" suffix "; jmp 3f; 2: repne scas" suffix           \
			 "; 3: cld; pushfq; pop %2"                                                          \
			 : "+D"(target), "+c"(n), "=&r"(*flags)                                              \
			 : "a"(value), "r"(back), "r"(equal)                                                 \
			 : "memory", "cc")
	EACH_SIZE(size, SCAS)
#undef SCAS
	return n;
}

/* ---- Instructions ----
 *
 * Of two pages, the one that was found first is looked for again when the second's grant, or an accessed bit on the way to it,
 * has moved a page (ft_memory.own_next): it may be that one. */

static enum soft_result movs(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	struct string s = string_make(cpu, insn);
	uint64_t n = least(s.left, least(within_page(&s, s.source), within_page(&s, s.target)));
	bool user = soft_user(cpu), source_bus = true, target_bus = true;
	const void *source = NULL;
	void *target = NULL;
	const uint8_t *copied = cpu->m->ram.own_next;
	if (n) {
		source = soft_span(cpu, s.source, n, s.size, s.back, SOFT_READ, user, &source_bus);
		if (!source && !source_bus)
			return SOFT_FAULT;
		target = soft_span(cpu, s.target, n, s.size, s.back, SOFT_WRITE, user, &target_bus);
		if (!target && !target_bus)
			return SOFT_FAULT;
		if (source && copied != cpu->m->ram.own_next)
			source = soft_span(cpu, s.source, n, s.size, s.back, SOFT_READ, user, &source_bus);
	}
	if (source && target) {
		host_movs(target, source, n, s.size, s.back);
	} else {
		uint64_t element;
		if (!soft_load(cpu, s.source, &element, s.size, user) ||
		    !soft_store(cpu, s.target, &element, s.size, user))
			return SOFT_FAULT;
		n = 1;
	}
	return finish(cpu, insn, &s, n, true, true);
}

static enum soft_result stos(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	struct string s = string_make(cpu, insn);
	uint64_t n = least(s.left, within_page(&s, s.target));
	bool user = soft_user(cpu), bus = true;
	void *target = n ? soft_span(cpu, s.target, n, s.size, s.back, SOFT_WRITE, user, &bus) : NULL;
	if (target) {
		host_stos(target, cpu->gpr[FT_RAX], n, s.size, s.back);
	} else {
		if (!bus || !soft_store(cpu, s.target, &cpu->gpr[FT_RAX], s.size, user))
			return SOFT_FAULT;
		n = 1;
	}
	return finish(cpu, insn, &s, n, false, true);
}

static enum soft_result lods(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	struct string s = string_make(cpu, insn);
	uint64_t n = least(s.left, within_page(&s, s.source)), element = 0;
	bool user = soft_user(cpu), bus = true;
	const uint8_t *source = n ? soft_span(cpu, s.source, n, s.size, s.back, SOFT_READ, user, &bus) : NULL;
	if (source) {
		/* Only the last one is seen. */
		soft_copy(&element, s.back ? source - (n - 1) * s.size : source + (n - 1) * s.size, s.size);
	} else {
		if (!bus || !soft_load(cpu, s.source, &element, s.size, user))
			return SOFT_FAULT;
		n = 1;
	}
	soft_set_gpr(cpu, FT_RAX, s.size, element);
	return finish(cpu, insn, &s, n, true, false);
}

/* After a comparison: the flags, and whether REPE or REPNE goes on. */
static enum soft_result compared(struct soft_cpu *cpu, const struct soft_insn *insn, const struct string *s,
				 uint64_t n, uint64_t flags, bool source)
{
	cpu->flags = (cpu->flags & ~(uint64_t)SOFT_FLAGS_ARITH) | (flags & SOFT_FLAGS_ARITH);
	enum soft_result result = finish(cpu, insn, s, n, source, true);
	bool goes_on = !(flags & FLAG_ZF) == (insn->repeat == 0xf2);
	return goes_on ? result : SOFT_NEXT;
}

static enum soft_result cmps(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	struct string s = string_make(cpu, insn);
	uint64_t n = least(s.left, least(within_page(&s, s.source), within_page(&s, s.target)));
	uint64_t flags, left, one[2] = {0, 0};
	bool user = soft_user(cpu), equal = insn->repeat != 0xf2, source_bus = true, target_bus = true;
	const void *source = NULL, *target = NULL;
	const uint8_t *copied = cpu->m->ram.own_next;
	if (n) {
		/* The order in which AMD's processors find faults. */
		target = soft_span(cpu, s.target, n, s.size, s.back, SOFT_READ, user, &target_bus);
		if (!target && !target_bus)
			return SOFT_FAULT;
		source = soft_span(cpu, s.source, n, s.size, s.back, SOFT_READ, user, &source_bus);
		if (!source && !source_bus)
			return SOFT_FAULT;
		if (target && copied != cpu->m->ram.own_next)
			target = soft_span(cpu, s.target, n, s.size, s.back, SOFT_READ, user, &target_bus);
	}
	if (!source || !target) {
		if (!soft_load(cpu, s.target, &one[1], s.size, user) ||
		    !soft_load(cpu, s.source, &one[0], s.size, user))
			return SOFT_FAULT;
		source = &one[0];
		target = &one[1];
		n = 1;
	}
	left = host_cmps(target, source, n, s.size, s.back, equal, &flags);
	return compared(cpu, insn, &s, n - left, flags, true);
}

static enum soft_result scas(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	struct string s = string_make(cpu, insn);
	uint64_t n = least(s.left, within_page(&s, s.target)), flags, left, one = 0;
	bool user = soft_user(cpu), equal = insn->repeat != 0xf2, bus = true;
	const void *target = n ? soft_span(cpu, s.target, n, s.size, s.back, SOFT_READ, user, &bus) : NULL;
	if (!target) {
		if (!bus || !soft_load(cpu, s.target, &one, s.size, user))
			return SOFT_FAULT;
		target = &one;
		n = 1;
	}
	left = host_scas(target, cpu->gpr[FT_RAX], n, s.size, s.back, equal, &flags);
	return compared(cpu, insn, &s, n - left, flags, false);
}

/* Ports take one element at a time: each may have an effect that an interrupt wants to be told. */
static enum soft_result ins_outs(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	struct string s = string_make(cpu, insn);
	uint16_t port = (uint16_t)cpu->gpr[FT_RDX];
	uint64_t element = 0;
	bool user = soft_user(cpu), in = insn->op == SOFT_OP_INS;
	if (!soft_io_permitted(cpu, port, s.size))
		return SOFT_FAULT;
	if (in) {
		/* Reading the port cannot be undone: the target must be good first. Loading for write asks for the
		 * right; what a device register answers is not used. */
		if (!soft_load_for_write(cpu, s.target, &element, s.size, user))
			return SOFT_FAULT;
		element = soft_bus_read(cpu, FT_SPACE_IO, port, s.size);
		if (!soft_store(cpu, s.target, &element, s.size, user))
			return SOFT_FAULT;
	} else {
		if (!soft_load(cpu, s.source, &element, s.size, user))
			return SOFT_FAULT;
		soft_bus_write(cpu, FT_SPACE_IO, port, s.size, element);
	}
	return finish(cpu, insn, &s, 1, !in, in) == SOFT_AGAIN ? SOFT_AGAIN : SOFT_SYNC;
}

/* With REP and 32-bit addresses, Intel's processors cut RCX to 32 bits whatever comes of it, a fault or a count of 0
 * included, and so the pointers of MOVS and STOS; AMD's only write what advances (seen by the differential test). */
static void cut_registers(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	cpu->gpr[FT_RCX] = (uint32_t)cpu->gpr[FT_RCX];
	if (insn->op == SOFT_OP_MOVS)
		cpu->gpr[FT_RSI] = (uint32_t)cpu->gpr[FT_RSI];
	if (insn->op == SOFT_OP_MOVS || insn->op == SOFT_OP_STOS)
		cpu->gpr[FT_RDI] = (uint32_t)cpu->gpr[FT_RDI];
}

/* Alignment of the elements, which is that of the first, and breakpoints on it. */
static bool watch(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	struct string s = string_make(cpu, insn);
	bool source = insn->op == SOFT_OP_MOVS || insn->op == SOFT_OP_CMPS || insn->op == SOFT_OP_LODS || insn->op == SOFT_OP_OUTS;
	bool target = insn->op != SOFT_OP_LODS && insn->op != SOFT_OP_OUTS;
	bool writes = insn->op == SOFT_OP_MOVS || insn->op == SOFT_OP_STOS || insn->op == SOFT_OP_INS;
	if (source)
		soft_watch(cpu, s.source, s.size, SOFT_BREAK_ACCESS);
	if (target)
		soft_watch(cpu, s.target, s.size, writes ? SOFT_BREAK_WRITE : SOFT_BREAK_ACCESS);
	return (!source || soft_aligned(cpu, s.source, s.size)) && (!target || soft_aligned(cpu, s.target, s.size));
}

enum soft_result soft_string_execute(struct soft_cpu *cpu, const struct soft_insn *insn)
{
	if (cpu->intel && insn->repeat && insn->address_size == 4)
		cut_registers(cpu, insn);
	if (insn->repeat && pointer(cpu, insn, FT_RCX) == 0)
		return SOFT_NEXT;
	if (soft_watched(cpu) && !watch(cpu, insn))
		return SOFT_FAULT;
	switch (insn->op) {
	case SOFT_OP_MOVS:
		return movs(cpu, insn);
	case SOFT_OP_STOS:
		return stos(cpu, insn);
	case SOFT_OP_LODS:
		return lods(cpu, insn);
	case SOFT_OP_CMPS:
		return cmps(cpu, insn);
	case SOFT_OP_SCAS:
		return scas(cpu, insn);
	default:
		return ins_outs(cpu, insn);
	}
}
