/* From guest instructions to a block of host instructions: decoding (Zydis), what each class becomes, and rebuilding an
 * instruction from its parts with other registers and another memory operand. */
#include <errno.h>
#include <string.h>

#include "vmm/engine/soft/translate.h"

/* ---- Taking apart -------------------------------------------------------------------------------------------- */

/* Number of a general register, -1 for anything else. */
static int gpr_number(ZydisRegister r, bool *high)
{
	if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL)
		return (int)(r - ZYDIS_REGISTER_AL);
	if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH) {
		*high = true;
		return (int)(r - ZYDIS_REGISTER_AH);
	}
	if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_R15B)
		return (int)(r - ZYDIS_REGISTER_SPL) + 4;
	if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15W)
		return (int)(r - ZYDIS_REGISTER_AX);
	if (r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D)
		return (int)(r - ZYDIS_REGISTER_EAX);
	if (r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15)
		return (int)(r - ZYDIS_REGISTER_RAX);
	return -1;
}

static void take_register(struct guest_insn *g, const ZydisDecodedOperand *o)
{
	bool high = false;
	int n = gpr_number(o->reg.value, &high);
	if (n < 0)
		return;
	g->high |= high;
	g->uses |= (uint16_t)BIT(n);
	if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		g->writes |= (uint16_t)BIT(n);
	if (o->actions != ZYDIS_OPERAND_ACTION_WRITE || o->size < 32)
		g->pure = false;
	if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG) {
		g->reg = (int8_t)n;
		g->high_reg = high;
	} else if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM) {
		g->rm = (int8_t)n;
		g->high_rm = high;
	} else if (o->encoding == ZYDIS_OPERAND_ENCODING_OPCODE) {
		g->embedded = (int8_t)n;
		g->high_embedded = high;
	} else if (o->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD) {
		g->third = (int8_t)n;
	}
}

static void take_memory(struct guest_insn *g, const ZydisDecodedOperand *o)
{
	bool high;
	struct guest_memory *m = &g->memory;
	*m = (struct guest_memory){R_NONE, R_NONE, 0, -1, g->z.address_width == 32, false, o->mem.disp.value};
	if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP)
		m->displacement += (int64_t)g->next;
	else if (o->mem.base != ZYDIS_REGISTER_NONE)
		m->base = (int8_t)gpr_number(o->mem.base, &high);
	if (o->mem.index != ZYDIS_REGISTER_NONE) {
		m->index = (int8_t)gpr_number(o->mem.index, &high);
		m->scale = (uint8_t)(o->mem.scale > 1 ? __builtin_ctz(o->mem.scale) : 0);
	}
	/* Without a base when mod is 0 and SIB says 5, whatever REX.B says; this Zydis takes R13 then. */
	if (g->z.raw.modrm.mod == 0 && g->z.raw.modrm.rm == 4 && g->z.raw.sib.base == 5 &&
	    m->base != R_NONE) {
		m->base = R_NONE;
		m->displacement = g->z.raw.disp.value;
	}
	if (o->mem.segment == ZYDIS_REGISTER_FS)
		m->segment = FT_FS;
	else if (o->mem.segment == ZYDIS_REGISTER_GS)
		m->segment = FT_GS;
	m->stack = o->mem.segment == ZYDIS_REGISTER_SS;
	g->has_memory = true;
	g->size = (uint8_t)(o->size / 8);
	g->reads_memory = (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
	g->writes_memory = (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
}

/* Of what has no legacy encoding only that which C carries out (hidden.c). */
static bool known_encoding(const struct guest_insn *g)
{
	bool bits = g->class->class == SOFT_CLASS_C && g->class->op >= SOFT_OP_ANDN && g->class->op <= SOFT_OP_SHRX;
	return g->z.encoding == (bits ? ZYDIS_INSTRUCTION_ENCODING_VEX : ZYDIS_INSTRUCTION_ENCODING_LEGACY);
}

/* false: not an instruction of this CPU. */
static bool take_apart(struct guest_insn *g, uint64_t rip)
{
	g->rip = rip;
	g->next = rip + g->z.length;
	g->class = &soft_classes[g->z.mnemonic];
	g->has_memory = g->reads_memory = g->writes_memory = g->high = false;
	g->high_reg = g->high_rm = g->high_embedded = false;
	g->reg = g->rm = g->embedded = g->third = -1;
	g->uses = g->writes = 0;
	g->size = 0;
	g->pure = g->z.mnemonic != ZYDIS_MNEMONIC_BSF && g->z.mnemonic != ZYDIS_MNEMONIC_BSR;
	if (!known_encoding(g) || g->class->class == SOFT_CLASS_UD)
		return false;
	for (unsigned i = 0; i < g->z.operand_count; i++) {
		const ZydisDecodedOperand *o = &g->operand[i];
		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER)
			take_register(g, o);
		else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY &&
			 o->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
			take_memory(g, o);
	}
	return true;
}

/* ---- Rebuilding ---------------------------------------------------------------------------------------------- */

/* Legacy prefixes that mean something on the host: segments and address size are gone, each at most once. */
static void emit_prefixes(struct emit *e, const ZydisDecodedInstruction *z)
{
	uint8_t operand = 0, repeat = 0, lock = 0;
	for (unsigned i = 0; i < z->raw.prefix_count; i++) {
		uint8_t p = z->raw.prefixes[i].value;
		operand |= p == 0x66;
		lock |= p == 0xf0;
		if (p == 0xf2 || p == 0xf3)
			repeat = p;
	}
	if (operand)
		emit_8(e, 0x66);
	if (repeat)
		emit_8(e, repeat);
	if (lock)
		emit_8(e, 0xf0);
}

static void emit_opcode(struct emit *e, const ZydisDecodedInstruction *z, uint8_t opcode)
{
	if (z->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		emit_8(e, 0x0f);
	if (z->opcode_map == ZYDIS_OPCODE_MAP_0F38)
		emit_8(e, 0x38);
	if (z->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
		emit_8(e, 0x3a);
	emit_8(e, opcode);
}

static void emit_immediate(struct emit *e, const ZydisDecodedInstruction *z, const uint8_t *bytes)
{
	if (z->raw.imm[0].size == 0)
		return;
	for (unsigned i = z->raw.imm[0].offset; i < z->length; i++)
		emit_8(e, bytes[i]);
}

/* The current instruction with `reg`, `rm`, `embedded` and memory operand replaced where the guest's has one. A REX
 * that the guest's instruction has stays, for SPL..DIL. */
static void emit_rebuilt(struct work *w, const uint8_t *bytes, int reg, int rm, int embedded,
			 const struct emit_memory *memory)
{
	struct emit *e = &w->e;
	const ZydisDecodedInstruction *z = &w->insn->z;
	bool has_rex = (z->attributes & ZYDIS_ATTRIB_HAS_REX) != 0;
	uint8_t rex = (uint8_t)(has_rex ? 0x40 | z->raw.rex.W << 3 : 0);
	bool modrm = (z->attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0;
	unsigned field =
	    reg >= 0 ? (unsigned)reg : (unsigned)z->raw.modrm.reg | (has_rex ? z->raw.rex.R << 3 : 0);
	unsigned other =
	    rm >= 0 ? (unsigned)rm : (unsigned)z->raw.modrm.rm | (has_rex ? z->raw.rex.B << 3 : 0);
	uint8_t opcode = z->opcode;
	emit_prefixes(e, z);
	if (embedded >= 0) {
		opcode = (uint8_t)((opcode & 0xf8) | (embedded & 7));
		rex |= (uint8_t)(embedded >= 8 ? 0x41 : 0);
	} else if (modrm) {
		rex |= (uint8_t)(field >= 8 ? 0x44 : 0);
		if (memory) {
			uint8_t address = emit_rex(0, 0, memory);
			rex |= (uint8_t)(address != 0x40 ? address : 0);
		} else {
			rex |= (uint8_t)(other >= 8 ? 0x41 : 0);
		}
	}
	if (rex)
		emit_8(e, rex);
	emit_opcode(e, z, opcode);
	if (modrm && memory)
		emit_operand(e, field, memory);
	else if (modrm)
		emit_8(e, (uint8_t)(0xc0 | (field & 7) << 3 | (other & 7)));
	emit_immediate(e, z, bytes);
}

/* ---- Plain instructions -------------------------------------------------------------------------------------- */

/* A guest register the instruction does not use, low so that it needs no REX; `taken` is one more to avoid. */
static int8_t spare_register(const struct guest_insn *g, int8_t taken)
{
	static const int8_t order[] = {R_RDI, R_RSI, R_RBX, R_RBP, R_RDX, R_RAX};
	for (unsigned i = 0; i < sizeof(order); i++)
		if (!(g->uses & BIT(order[i])) && order[i] != taken)
			return order[i];
	return R_NONE;
}

/* Where the parts of one instruction go when it uses guest RSP, RCX or R15 or has a memory operand. */
struct places {
	struct emit_memory memory;
	int8_t address;    /* the one register that holds the host address, or R_NONE: memory as it is */
	int8_t substitute; /* for guest RSP */
	int8_t spare[2];   /* saved in spill[0], spill[1] */
};

static int8_t take_spare(struct places *p, const struct guest_insn *g)
{
	unsigned i = p->spare[0] != R_NONE;
	p->spare[i] = spare_register(g, p->spare[0]);
	return p->spare[i];
}

static void choose_places(struct places *p, const struct guest_insn *g)
{
	bool rcx = !(g->uses & BIT(R_RCX)), r15 = !(g->uses & BIT(R_R15)) && !g->high; /* free? */
	bool rsp = (g->uses & BIT(R_RSP)) != 0;
	if (g->has_memory) {
		bool in_rcx = p->memory.base == R_RCX;
		if (r15 && (rcx || !in_rcx) && !(rsp && (in_rcx || !rcx)))
			r15 = false, rcx = rcx && !in_rcx; /* as it is */
		else if (r15)
			p->address = R_R15, r15 = false;
		else if (rcx)
			p->address = R_RCX, rcx = false;
		else
			p->address = take_spare(p, g);
	}
	if (!rsp)
		return;
	p->substitute = rcx ? R_RCX : r15 ? R_R15 : take_spare(p, g);
}

static void load_if_used(struct work *w, int8_t guest, int8_t host)
{
	const struct guest_insn *g = w->insn;
	if ((g->uses & BIT(guest)) && !(g->pure && (g->writes & BIT(guest))))
		emit_load(&w->e, (unsigned)host, SLOT_GPR(guest));
}

static void store_if_written(struct work *w, int8_t guest, int8_t host)
{
	if (w->insn->writes & BIT(guest))
		emit_store(&w->e, SLOT_GPR(guest), (unsigned)host);
}

/* SSE operands of 16 bytes are aligned but for those made for others (SDM Vol. 2A, 2.5: exception types 2 and 4). SHA's are among the aligned
 * ones on Intel's processors (Vol. 2B), not on AMD's (seen on one). */
static bool must_be_aligned(const struct work *w)
{
	const struct guest_insn *g = w->insn;
	if (g->class->class != SOFT_CLASS_SSE || g->size != 16)
		return false;
	switch (g->z.mnemonic) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM:
		return false;
	case ZYDIS_MNEMONIC_SHA1MSG1:
	case ZYDIS_MNEMONIC_SHA1MSG2:
	case ZYDIS_MNEMONIC_SHA1NEXTE:
	case ZYDIS_MNEMONIC_SHA1RNDS4:
	case ZYDIS_MNEMONIC_SHA256MSG1:
	case ZYDIS_MNEMONIC_SHA256MSG2:
	case ZYDIS_MNEMONIC_SHA256RNDS2:
		return w->cpu->intel;
	default:
		return true;
	}
}

/* Moves of aligned data, by name: MXCSR.MM does not change them. APM Vol. 1 4.3.2; the others all do as it says, seen on a processor. */
static bool moves_aligned(const struct guest_insn *g)
{
	switch (g->z.mnemonic) {
	case ZYDIS_MNEMONIC_MOVAPS:
	case ZYDIS_MNEMONIC_MOVAPD:
	case ZYDIS_MNEMONIC_MOVDQA:
	case ZYDIS_MNEMONIC_MOVNTPS:
	case ZYDIS_MNEMONIC_MOVNTPD:
	case ZYDIS_MNEMONIC_MOVNTDQ:
	case ZYDIS_MNEMONIC_MOVNTDQA:
		return true;
	default:
		return false;
	}
}

static bool stores_mmx(const struct guest_insn *g)
{
	return g->writes_memory && g->z.operand_count > 1 && g->operand[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       ZydisRegisterGetClass(g->operand[1].reg.value) == ZYDIS_REGCLASS_MMX;
}

static uint32_t access_info(const struct work *w)
{
	const struct guest_insn *g = w->insn;
	/* An x87 store does not happen when it raises what is not masked: in slow mode the old bytes are committed then. */
	bool reads = g->reads_memory || (g->class->class == SOFT_CLASS_X87 && g->writes_memory);
	return (stores_mmx(g) ? SOFT_INFO_MMX : 0) | (must_be_aligned(w) ? SOFT_INFO_ALIGNED : 0) |
	       (moves_aligned(g) ? SOFT_INFO_MOVES_ALIGNED : 0) |
	       (reads ? SOFT_INFO_READ : 0) |
	       (g->writes_memory ? SOFT_INFO_WRITE : 0) | (g->memory.stack ? SOFT_INFO_STACK : 0);
}

static void emit_plain(struct work *w, const uint8_t *bytes)
{
	const struct guest_insn *g = w->insn;
	struct places p = {.address = R_NONE, .substitute = R_NONE, .spare = {R_NONE, R_NONE}};
	if (g->has_memory)
		p.memory = soft_emit_access(w, &g->memory, g->size, access_info(w), 0);
	choose_places(&p, g);
	for (unsigned i = 0; i < 2 && p.spare[i] != R_NONE; i++)
		emit_store(&w->e, i ? SLOT(spill[1]) : SLOT(spill[0]), (unsigned)p.spare[i]);
	if (p.address != R_NONE) {
		emit_lea(&w->e, (unsigned)p.address, p.memory);
		p.memory = emit_at(p.address, 0);
	}
	load_if_used(w, R_RCX, R_RCX);
	load_if_used(w, R_R15, R_R15);
	load_if_used(w, R_RSP, p.substitute);
#define HOST(guest) ((guest) == R_RSP ? p.substitute : (guest))
	/* AH..BH have the numbers 4..7 of the encoding, which HOST must not see. */
	emit_rebuilt(w, bytes, g->high_reg ? -1 : HOST(g->reg), g->high_rm ? -1 : HOST(g->rm),
		     g->high_embedded ? -1 : HOST(g->embedded), g->has_memory ? &p.memory : NULL);
#undef HOST
	store_if_written(w, R_RCX, R_RCX);
	store_if_written(w, R_R15, R_R15);
	store_if_written(w, R_RSP, p.substitute);
	for (unsigned i = 0; i < 2 && p.spare[i] != R_NONE; i++)
		emit_load(&w->e, (unsigned)p.spare[i], i ? SLOT(spill[1]) : SLOT(spill[0]));
	if (g->writes_memory)
		soft_emit_commit(w, g->size);
}

/* ---- Instructions with a way of their own -------------------------------------------------------------------- */

/* MOV between the accumulator and an absolute address: as the ModRM form. */
static void emit_absolute_mov(struct work *w)
{
	const struct guest_insn *g = w->insn;
	uint8_t opcode = g->z.opcode; /* A0..A3 */
	struct emit_memory at = soft_emit_access(w, &g->memory, g->size, access_info(w), 0);
	if (g->size == 2)
		emit_8(&w->e, 0x66);
	emit_8(&w->e, emit_rex(g->size == 8, 0, &at));
	emit_8(&w->e, (uint8_t)(opcode < 0xa2 ? 0x8a + (opcode & 1) : 0x88 + (opcode & 1)));
	emit_operand(&w->e, R_RAX, &at);
	if (g->writes_memory)
		soft_emit_commit(w, g->size);
}

static void emit_mov_class(struct work *w, const uint8_t *bytes)
{
	const struct guest_insn *g = w->insn;
	for (unsigned i = 0; i < 2; i++) {
		if (g->operand[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		switch (ZydisRegisterGetClass(g->operand[i].reg.value)) {
		case ZYDIS_REGCLASS_SEGMENT:
			soft_emit_operation(w, i ? SOFT_OP_MOV_FROM_SEG : SOFT_OP_MOV_TO_SEG, 0);
			return;
		case ZYDIS_REGCLASS_CONTROL:
			soft_emit_operation(w, i ? SOFT_OP_MOV_FROM_CR : SOFT_OP_MOV_TO_CR, 0);
			return;
		case ZYDIS_REGCLASS_DEBUG:
			soft_emit_operation(w, i ? SOFT_OP_MOV_FROM_DR : SOFT_OP_MOV_TO_DR, 0);
			return;
		case ZYDIS_REGCLASS_TEST:
			soft_emit_operation(w, SOFT_OP_UD, 0);
			return;
		default:
			break;
		}
	}
	if (g->z.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && g->z.opcode >= 0xa0 && g->z.opcode <= 0xa3)
		emit_absolute_mov(w);
	else
		emit_plain(w, bytes);
}

static void store_sized(struct work *w, unsigned size, struct emit_memory to, unsigned reg)
{
	if (size == 2) {
		emit_8(&w->e, 0x66);
		emit_8(&w->e, emit_rex(0, reg, &to));
		emit_8(&w->e, 0x89);
		emit_operand(&w->e, reg, &to);
	} else {
		emit_store(&w->e, to, reg);
	}
}

static void emit_lea_class(struct work *w)
{
	const struct guest_insn *g = w->insn;
	struct emit *e = &w->e;
	struct guest_memory m = g->memory;
	bool special = g->reg == R_RSP || g->reg == R_RCX || g->reg == R_R15;
	unsigned to = special || g->z.operand_width == 16 ? R_R15 : (unsigned)g->reg;
	m.segment = -1;
	if (m.base == R_NONE && m.index == R_NONE) {
		uint64_t value = (uint64_t)m.displacement;
		if (m.address32 || g->z.operand_width == 32)
			value = (uint32_t)value;
		emit_mov_immediate(e, to, value);
	} else {
		struct emit_memory ea = {m.base, m.index, m.scale, (int32_t)m.displacement};
		if (m.index == R_RCX || m.index == R_R15) {
			emit_load(e, R_RCX, SLOT_GPR(m.index));
			ea.index = R_RCX;
		}
		if (m.base == R_RSP || m.base == R_RCX || m.base == R_R15) {
			emit_load(e, R_R15, SLOT_GPR(m.base));
			ea.base = R_R15;
		}
		if (g->z.operand_width == 64 && !m.address32)
			emit_lea(e, to, ea);
		else
			emit_lea32(e, to, ea);
	}
	if (g->z.operand_width == 16 && !special) {
		emit_8(e, 0x66); /* mov r16, r15w */
		emit_8(e, (uint8_t)(0x44 | g->reg >> 3));
		emit_8(e, 0x89);
		emit_8(e, (uint8_t)(0xc0 | 7 << 3 | (g->reg & 7)));
	} else if (special) {
		store_sized(w, g->z.operand_width == 16 ? 2 : 8, SLOT_GPR(g->reg), R_R15);
	}
}

/* BT* with the bit offset in a register: the offset's upper part selects the word, the host's instruction gets the
 * lower part only. SDM Vol. 2A, BT. */
static void emit_bit_test(struct work *w, const uint8_t *bytes)
{
	const struct guest_insn *g = w->insn;
	struct emit *e = &w->e;
	if (!g->has_memory || g->reg < 0) {
		emit_plain(w, bytes);
		return;
	}
	unsigned shift = g->size == 8 ? 6 : g->size == 4 ? 5 : 4;
	struct emit_memory mask = shift == 6   ? SLOT(bit_mask[2])
				  : shift == 5 ? SLOT(bit_mask[1])
					       : SLOT(bit_mask[0]);
	bool special = g->reg == R_RSP || g->reg == R_RCX || g->reg == R_R15;
	struct guest_memory m = g->memory;
	m.segment = -1; /* added last, when the offset is in the address */
	soft_emit_address(w, &m, 0);
	if (special)
		emit_load(e, R_RCX, SLOT_GPR(g->reg));
	else
		emit_mov(e, R_RCX, (unsigned)g->reg);
	if (g->size == 4) {
		emit_8(e, 0x48); /* movsxd rcx, ecx */
		emit_8(e, 0x63);
		emit_8(e, 0xc9);
	} else if (g->size == 2) {
		emit_8(e, 0x48); /* movsx rcx, cx */
		emit_8(e, 0x0f);
		emit_8(e, 0xbf);
		emit_8(e, 0xc9);
	}
	emit_store(e, SLOT(spill[0]), R_RCX);
	emit_mov_ecx(e, shift);
	emit_sarx(e, R_RCX, SLOT(spill[0]), R_RCX);
	struct emit_memory sum = {R_R15, R_RCX, (uint8_t)(shift - 3), 0};
	if (m.address32)
		emit_lea32(e, R_R15, sum);
	else
		emit_lea(e, R_R15, sum);
	soft_emit_segment(w, g->memory.segment);
	struct emit_memory at = soft_emit_check(w, g->size, access_info(w));
	emit_lea(e, R_R15, at);
	if (special)
		emit_load(e, R_RCX, SLOT_GPR(g->reg));
	emit_pext(e, R_RCX, special ? R_RCX : (unsigned)g->reg, mask);
	at = emit_at(R_R15, 0);
	emit_rebuilt(w, bytes, R_RCX, -1, -1, &at);
	if (g->writes_memory)
		soft_emit_commit(w, g->size);
}

static void emit_xlat(struct work *w)
{
	struct emit *e = &w->e;
	struct guest_memory m = {R_RBX, R_NONE, 0, -1, w->insn->z.address_width == 32, false, 0};
	if (w->insn->z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS)
		m.segment = FT_FS;
	if (w->insn->z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS)
		m.segment = FT_GS;
	emit_8(e, 0x0f); /* movzx ecx, al */
	emit_8(e, 0xb6);
	emit_8(e, 0xc8);
	struct emit_memory ea = {R_RBX, R_RCX, 0, 0};
	if (m.address32)
		emit_lea32(e, R_R15, ea);
	else
		emit_lea(e, R_R15, ea);
	if (m.segment >= 0) {
		emit_load(e, R_RCX,
			  m.segment == FT_FS ? SLOT(segment[FT_FS].base) : SLOT(segment[FT_GS].base));
		emit_lea(e, R_R15, (struct emit_memory){R_RCX, R_R15, 0, 0});
	}
	struct emit_memory at = soft_emit_check(w, 1, SOFT_INFO_READ);
	emit_8(e, emit_rex(0, R_RAX, &at));
	emit_8(e, 0x8a);
	emit_operand(e, R_RAX, &at);
}

/* MASKMOVQ, MASKMOVDQU: the address is implicit, so RDI is lent for the host's. All bytes are checked for writing,
 * masked or not (SDM Vol. 2A leaves that open). */
static void emit_mask_move(struct work *w, const uint8_t *bytes)
{
	unsigned size = w->insn->z.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ ? 8 : 16;
	struct guest_memory m = {R_RDI, R_NONE, 0, -1, w->insn->z.address_width == 32, false, 0};
	if (w->insn->z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS)
		m.segment = FT_FS;
	if (w->insn->z.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS)
		m.segment = FT_GS;
	if (size == 8) {
		emit_8(&w->e, 0x41); /* movd r15d, mm0: the x87 state is MMX's even when the address faults */
		emit_8(&w->e, 0x0f);
		emit_8(&w->e, 0x7e);
		emit_8(&w->e, 0xc7);
	}
	struct emit_memory at = soft_emit_access(w, &m, size, SOFT_INFO_READ | SOFT_INFO_WRITE, 0);
	emit_store(&w->e, SLOT(spill[0]), R_RDI);
	emit_lea(&w->e, R_RDI, at);
	emit_rebuilt(w, bytes, -1, -1, -1, NULL);
	emit_load(&w->e, R_RDI, SLOT(spill[0]));
	soft_emit_commit(w, size);
}

/* ---- Instructions in C --------------------------------------------------------------------------------------- */

static uint8_t c_operand_size(const struct guest_insn *g, uint8_t op)
{
	switch (op) {
	case SOFT_OP_IN:
		return (uint8_t)(g->operand[0].size / 8);
	case SOFT_OP_OUT:
		return (uint8_t)(g->operand[1].size / 8);
	case SOFT_OP_MOVS:
	case SOFT_OP_STOS:
	case SOFT_OP_LODS:
	case SOFT_OP_SCAS:
	case SOFT_OP_CMPS:
	case SOFT_OP_INS:
	case SOFT_OP_OUTS:
		for (unsigned i = 0; i < g->z.operand_count; i++)
			if (g->operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
				return (uint8_t)(g->operand[i].size / 8);
		return 1;
	case SOFT_OP_MOV_FROM_SEG:
		return (uint8_t)(g->operand[0].size / 8);
	default:
		if (op >= SOFT_OP_ANDN && op <= SOFT_OP_SHRX)
			return (uint8_t)(g->operand[0].size / 8);
		return (uint8_t)(g->z.operand_width / 8);
	}
}

static uint8_t c_segment(const struct guest_insn *g)
{
	for (unsigned i = 0; i < g->z.operand_count; i++) {
		const ZydisDecodedOperand *o = &g->operand[i];
		/* Of string instructions only the source's segment can be overridden. */
		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.segment >= ZYDIS_REGISTER_ES &&
		    o->mem.segment <= ZYDIS_REGISTER_GS && o->mem.segment != ZYDIS_REGISTER_ES)
			return (uint8_t)(o->mem.segment - ZYDIS_REGISTER_ES);
	}
	return FT_DS;
}

static void fill_record(struct soft_record *r, const struct guest_insn *g, uint8_t op, uint8_t raise,
			const uint8_t *bytes)
{
	const ZydisDecodedInstruction *z = &g->z;
	bool has_rex = (z->attributes & ZYDIS_ATTRIB_HAS_REX) != 0;
	*r = (struct soft_record){.rip = g->rip, .raise = raise};
	struct soft_insn *i = &r->insn;
	*i = (struct soft_insn){
	    .op = op,
	    .length = z->length,
	    .operand_size = c_operand_size(g, op),
	    .address_size = (uint8_t)(z->address_width / 8),
	    .lock = (z->attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0,
	    .segment = c_segment(g),
	    .memory = g->has_memory,
	    .modrm_reg = (uint8_t)(z->raw.modrm.reg | (has_rex ? z->raw.rex.R << 3 : 0)),
	    .modrm_rm = (uint8_t)(z->raw.modrm.rm | (has_rex ? z->raw.rex.B << 3 : 0)),
	    .base = 17,
	    .index = 16,
	    .scale = 1,
	    .rex = has_rex,
	    .immediate = z->raw.imm[0].value.u,
	    .immediate2 = z->raw.imm[1].value.u,
	};
	for (unsigned p = 0; p < z->raw.prefix_count; p++)
		if (z->raw.prefixes[p].value == 0xf2 || z->raw.prefixes[p].value == 0xf3)
			i->repeat = z->raw.prefixes[p].value;
	if (g->has_memory) {
		i->base = g->memory.base != R_NONE ? (uint8_t)g->memory.base : 17;
		i->index = g->memory.index != R_NONE ? (uint8_t)g->memory.index : 16;
		i->scale = (uint8_t)(1u << g->memory.scale);
		i->displacement = g->memory.displacement;
	}
	if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
		i->modrm_reg = (uint8_t)(g->reg & 15);
		i->modrm_rm = (uint8_t)(g->rm & 15);
		i->immediate2 = (uint64_t)(g->third & 15);
	}
	memcpy(i->bytes, bytes, z->length);
}

void soft_emit_operation(struct work *w, uint8_t op, uint8_t raise)
{
	struct soft_blocks *b = w->blocks;
	uint32_t n;
	if (w->block->mode & SOFT_MODE_ONCE) {
		fill_record(&b->once_record[w->index], w->insn, op, raise, w->bytes);
		n = SOFT_RECORD_ONCE + w->index;
	} else {
		n = b->record_used++;
		fill_record(&b->record[n], w->insn, op, raise, w->bytes);
	}
	emit_mov_ecx(&w->e, n);
	emit_call_to(&w->e, b->code + b->thunk[SOFT_THUNK_OPERATION]);
}

/* Control goes elsewhere, always or as a rule: nothing behind it belongs to the block. */
static bool ends_block(uint8_t op)
{
	switch (op) {
	case SOFT_OP_HLT:
	case SOFT_OP_IRET:
	case SOFT_OP_SYSCALL:
	case SOFT_OP_SYSRET:
	case SOFT_OP_SYSENTER:
	case SOFT_OP_SYSEXIT:
	case SOFT_OP_INT:
	case SOFT_OP_INT3:
	case SOFT_OP_INT1:
	case SOFT_OP_FAR_CALL:
	case SOFT_OP_FAR_JMP:
	case SOFT_OP_FAR_RET:
	case SOFT_OP_MOV_TO_CR:
	case SOFT_OP_UD:
	case SOFT_OP_COUNT:
		return true;
	default:
		return false;
	}
}

/* ---- A block ------------------------------------------------------------------------------------------------- */

static void emit_in_c(struct work *w, uint8_t op, uint8_t raise)
{
	soft_emit_operation(w, op, raise);
	if (ends_block(op)) {
		/* Reached when C says that the next instruction follows. */
		soft_emit_exit(w, w->insn->next);
		w->done = true;
	}
}

static bool names_only_mmx(const struct guest_insn *g)
{
	bool mmx = g->z.mnemonic == ZYDIS_MNEMONIC_EMMS;
	for (unsigned i = 0; i < g->z.operand_count; i++) {
		ZydisRegisterClass c = g->operand[i].type == ZYDIS_OPERAND_TYPE_REGISTER ? ZydisRegisterGetClass(g->operand[i].reg.value)
											   : ZYDIS_REGCLASS_INVALID;
		if (c == ZYDIS_REGCLASS_XMM)
			return false;
		mmx |= c == ZYDIS_REGCLASS_MMX;
	}
	return mmx;
}

static uint8_t fpu_kind(const struct guest_insn *g, enum soft_class class)
{
	if (g->z.mnemonic == ZYDIS_MNEMONIC_FWAIT)
		return SOFT_RAISE_WAIT;
	if (class == SOFT_CLASS_X87)
		return SOFT_RAISE_X87;
	return names_only_mmx(g) ? SOFT_RAISE_MMX : SOFT_RAISE_SSE;
}

static void emit_insn(struct work *w)
{
	const struct guest_insn *g = w->insn;
	enum soft_class class = (enum soft_class)g->class->class;
	if (class == SOFT_CLASS_DOUBLE)
		class = g->z.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT ? SOFT_CLASS_C : SOFT_CLASS_SSE;
	if (w->no_fpu &&
	    (class == SOFT_CLASS_X87 || class == SOFT_CLASS_SSE || class == SOFT_CLASS_MASK_MOVE)) {
		emit_in_c(w, SOFT_OP_COUNT, fpu_kind(g, class));
		return;
	}
	switch (class) {
	case SOFT_CLASS_UD:
		emit_in_c(w, SOFT_OP_UD, 0);
		break;
	case SOFT_CLASS_NOTHING:
		/* 90 with REX.B is XCHG R8, whatever stands in front of it. */
		if (g->z.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && g->z.opcode == 0x90 &&
		    (g->z.attributes & ZYDIS_ATTRIB_HAS_REX) && g->z.raw.rex.B)
			emit_rebuilt(w, w->bytes, -1, -1, R_R8, NULL);
		break;
	case SOFT_CLASS_PLAIN:
	case SOFT_CLASS_X87:
	case SOFT_CLASS_SSE:
		emit_plain(w, w->bytes);
		break;
	case SOFT_CLASS_MOV:
		emit_mov_class(w, w->bytes);
		break;
	case SOFT_CLASS_LEA:
		emit_lea_class(w);
		break;
	case SOFT_CLASS_BIT_TEST:
		emit_bit_test(w, w->bytes);
		break;
	case SOFT_CLASS_XLAT:
		emit_xlat(w);
		break;
	case SOFT_CLASS_MASK_MOVE:
		emit_mask_move(w, w->bytes);
		break;
	case SOFT_CLASS_C:
	case SOFT_CLASS_DOUBLE:
		emit_in_c(w, g->class->op, 0);
		break;
	default:
		soft_emit_flow(w);
		break;
	}
}

static void emit_prologue(struct work *w)
{
	struct emit *e = &w->e;
	e->at = w->entry - SOFT_RESUME;
	emit_mov_ecx(e, soft_block_index(w->blocks, w->block));
	emit_jump_to(e, w->blocks->code + w->blocks->thunk[SOFT_THUNK_EXPIRED]);
	emit_load(e, R_RCX, SLOT(count));
	emit_lea(e, R_RCX, emit_at(R_RCX, 1)); /* patched: how many there are */
	emit_store(e, SLOT(count), R_RCX);
	emit_rorx(e, R_RCX, R_RCX, 32);
	emit_8(e, 0x67); /* jecxz */
	emit_8(e, 0xe3);
	emit_8(e, (uint8_t)(w->entry - SOFT_RESUME - (e->at + 1)));
}
#define PROLOGUE_COUNT 8 /* offset of the displacement in `lea` */

enum decoded { DECODED, UNDEFINED, TOO_LONG, TRUNCATED };

static bool legacy_prefix(uint8_t byte)
{
	return byte == 0x26 || byte == 0x2e || byte == 0x36 || byte == 0x3e || (byte >= 0x64 && byte <= 0x67) || byte == 0xf0 ||
	       byte == 0xf2 || byte == 0xf3;
}

/* AMD's other way to CR8, made for code that has no REX: MOV of CR0 with LOCK (APM Vol. 3, MOV CRn). Zydis takes it for an error, so
 * it sees a prefix that means nothing there in LOCK's place. */
static bool decode_lock_cr0(const ZydisDecoder *decoder, struct guest_insn *g, const uint8_t *bytes, uint32_t available)
{
	uint8_t unlocked[15];
	memcpy(unlocked, bytes, available);
	for (uint32_t i = 0; i < available && legacy_prefix(bytes[i]); i++)
		if (bytes[i] == 0xf0)
			unlocked[i] = 0x3e;
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, unlocked, available, &g->z, g->operand)) ||
	    g->z.opcode_map != ZYDIS_OPCODE_MAP_0F || (g->z.opcode != 0x20 && g->z.opcode != 0x22) || g->z.raw.modrm.reg || g->z.raw.rex.R)
		return false;
	g->z.raw.modrm.reg = 8;
	return true;
}

static enum decoded decode(const ZydisDecoder *decoder, uint32_t host, struct guest_insn *g, const uint8_t *bytes, uint32_t available,
			   uint64_t rip)
{
	available = available > 15 ? 15 : available;
	ZyanStatus status = ZydisDecoderDecodeFull(decoder, bytes, available, &g->z, g->operand);
	if (status == ZYDIS_STATUS_ILLEGAL_LOCK && (host & SOFT_HOST_LOCK_CR0) && decode_lock_cr0(decoder, g, bytes, available))
		return take_apart(g, rip) ? DECODED : UNDEFINED;
	if (status == ZYDIS_STATUS_NO_MORE_DATA && available < 15)
		return TRUNCATED;
	if (ZYAN_SUCCESS(status))
		return take_apart(g, rip) ? DECODED : UNDEFINED;
	g->z.length = (uint8_t)available; /* all these bytes may have made it so */
	return status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG || status == ZYDIS_STATUS_NO_MORE_DATA ? TOO_LONG
												  : UNDEFINED;
}

/* What cannot be decoded: raises when it is reached. */
static void emit_undecoded(struct work *w, struct guest_insn *g, uint64_t rip, uint8_t vector)
{
	*g = (struct guest_insn){.rip = rip, .next = rip + 1, .class = &soft_classes[ZYDIS_MNEMONIC_INVALID]};
	g->z.length = 1;
	emit_in_c(w, SOFT_OP_COUNT, vector);
}

static void finish(struct work *w, uint32_t low, uint32_t high)
{
	struct soft_block *block = w->block;
	struct soft_blocks *b = w->blocks;
	block->count = (uint8_t)w->index;
	block->low = (uint16_t)low;
	block->high = (uint16_t)(high > FT_PAGE_SIZE ? FT_PAGE_SIZE : high);
	block->high2 = (uint16_t)(high > FT_PAGE_SIZE ? high - FT_PAGE_SIZE : 0);
	w->entry[PROLOGUE_COUNT] = block->count;
	soft_emit_stubs(w);
	block->size = (uint32_t)(w->e.at - (w->entry - SOFT_RESUME));
	bool once = (block->mode & SOFT_MODE_ONCE) != 0;
	struct soft_record *r = once ? b->once_record : b->record + w->first_record;
	struct soft_record *end = once ? b->once_record + w->index : b->record + b->record_used;
	for (; r < end; r++) {
		r->block = soft_block_index(b, block);
		for (unsigned i = 0; i < w->index; i++)
			if (block->rip + (uint64_t)(int64_t)w->place[i].guest == r->rip)
				r->left = (uint8_t)(w->index - i);
	}
}

int soft_translate_block(struct soft_cpu *cpu, struct soft_block *block, const uint8_t *bytes,
			 uint32_t available, uint32_t most)
{
	struct soft_blocks *b = cpu->blocks;
	bool once = (block->mode & SOFT_MODE_ONCE) != 0, crosses = block->gpa2 != UINT64_MAX;
	/* Not cleared as a whole: the stubs are many, and each is written before it is read. */
	struct work w;
	memset(&w, 0, offsetof(struct work, stub));
	w.stubs = 0;
	w.cpu = cpu;
	w.blocks = b;
	w.block = block;
	w.entry = b->code + block->entry;
	w.place = once ? b->once_place : b->place + block->places;
	w.user = (block->mode & SOFT_MODE_USER) != 0;
	w.slow = (block->mode & SOFT_MODE_SLOW) != 0;
	w.no_fpu = (block->mode & SOFT_MODE_NO_FPU) != 0;
	w.first_record = b->record_used;
	w.unchained = once || w.slow;
	if (w.slow || crosses)
		most = 1;
	ZydisDecoder decoder;
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	emit_prologue(&w);
	uint64_t rip = block->rip, page = rip & ~(uint64_t)(FT_PAGE_SIZE - 1);
	uint32_t low = FT_PAGE_SIZE, high = 0;
	struct guest_insn g;
	w.insn = &g;
	for (;;) {
		uint32_t at = (uint32_t)(rip - block->rip), offset = (uint32_t)(rip - page);
		w.bytes = bytes + (int32_t)at;
		enum decoded d = decode(&decoder, cpu->host, &g, w.bytes, available - at, rip);
		if (d == TRUNCATED && w.index == 0)
			return -EAGAIN;
		if (d == TRUNCATED) {
			soft_emit_exit_away(&w, rip);
			break;
		}
		w.place[w.index] = (struct soft_place){(uint16_t)(w.e.at - w.entry), (int16_t)at};
		low = offset < low ? offset : low;
		high = offset + g.z.length > high ? offset + g.z.length : high;
		w.goes_to = g.next;
		if (d == DECODED)
			emit_insn(&w);
		else
			emit_undecoded(&w, &g, rip, d == TOO_LONG ? SOFT_GP : SOFT_UD);
		w.index++;
		if (w.done)
			break;
		rip = w.goes_to;
		if (w.index >= most || (rip & ~(uint64_t)(FT_PAGE_SIZE - 1)) != page || crosses ||
		    w.e.at - w.entry > (ptrdiff_t)SOFT_BLOCK_ROOM / 2 || w.stubs > MOST_STUBS - 8) {
			soft_emit_exit(&w, rip);
			break;
		}
	}
	finish(&w, low, high);
	return 0;
}
