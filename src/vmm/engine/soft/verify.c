#include "vmm/engine/soft/verify.h"

#include <Zydis/Zydis.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is known of a register. Two registers with equal (id, offset) hold id's value + offset. */
enum kind {
	VALUE, /* a guest's value, or one derived from it: id + offset. Constants have id 0 */
	INDEX, /* TLB index of the address id + offset */
	TAG,   /* tag of that entry */
	SUM,   /* tag + address + size - 1 */
	OVER,  /* SUM >> 12: zero when the entry is this page's and the access stays in it */
	DELTA, /* host minus guest address for the page of id + offset */
	HOST   /* host address of a checked access: `size` bytes from here on */
};

struct value {
	uint8_t kind;
	bool write; /* TAG, SUM, OVER, HOST: by the write tag */
	uint8_t size;
	uint32_t id;
	int64_t offset;
};

/* As a register adds: a guest's constants are any. */
static int64_t sum(int64_t a, int64_t b)
{
	return (int64_t)((uint64_t)a + (uint64_t)b);
}

/* A comparison that came out well on this path. */
struct checked {
	bool write;
	uint8_t size; /* 0: none */
	uint32_t id;
	int64_t offset;
};
#define CHECKED 4

struct state {
	struct value reg[16];
	struct checked checked[CHECKED];
	uint8_t next; /* slot of `checked` to be written next */
	uint8_t lent[2]; /* by spill slot: the guest's register that is lent and whose value is there, plus 1; 0: none */
};

struct insn {
	ZydisDecodedInstruction i;
	ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
	uint32_t at;
};

struct run {
	const struct soft_cpu *cpu;
	const uint8_t *code;
	size_t length, entry;
	bool user, once;
	uint32_t count;
	struct insn *insn;      /* in order */
	struct state *state;    /* on arrival at each */
	uint8_t *seen;          /* state is set; 2: waiting to be (again) followed; 4: on the path (cycle) */
	uint32_t *index;        /* by offset; NONE: no boundary */
	const struct insn *now;
	struct ft_error *err;
};

#define NONE          UINT32_MAX
#define R_RSP_NUMBER  4

static int refuse(struct run *r, const char *rule)
{
	char bytes[64] = "", *to = bytes;
	const struct insn *n = r->now;
	for (unsigned k = 0; n && k < n->i.length && k < 15; k++)
		to += snprintf(to, sizeof(bytes) - (size_t)(to - bytes), " %02x", r->code[n->at + k]);
	return ft_error_set(r->err, -EPERM, "verifier: %s (at +%u of %zu:%s %s)", rule, n ? n->at : 0, r->length, bytes,
			    n ? ZydisMnemonicGetString(n->i.mnemonic) : "");
}

/* ---- Kinds of instructions ----------------------------------------------------------------------------------------- */

static bool known_set(ZydisISASet set)
{
	switch (set) {
	case ZYDIS_ISA_SET_I86:
	case ZYDIS_ISA_SET_I186:
	case ZYDIS_ISA_SET_I386:
	case ZYDIS_ISA_SET_I486:
	case ZYDIS_ISA_SET_I486REAL:
	case ZYDIS_ISA_SET_PENTIUMREAL:
	case ZYDIS_ISA_SET_PENTIUMMMX:
	case ZYDIS_ISA_SET_PPRO:
	case ZYDIS_ISA_SET_CMOV:
	case ZYDIS_ISA_SET_FCMOV:
	case ZYDIS_ISA_SET_X87:
	case ZYDIS_ISA_SET_SSE:
	case ZYDIS_ISA_SET_SSEMXCSR:
	case ZYDIS_ISA_SET_SSE2:
	case ZYDIS_ISA_SET_SSE2MMX:
	case ZYDIS_ISA_SET_SSE3:
	case ZYDIS_ISA_SET_SSE3X87:
	case ZYDIS_ISA_SET_SSSE3:
	case ZYDIS_ISA_SET_SSSE3MMX:
	case ZYDIS_ISA_SET_SSE4:
	case ZYDIS_ISA_SET_SSE42:
	case ZYDIS_ISA_SET_LONGMODE:
	case ZYDIS_ISA_SET_LAHF:
	case ZYDIS_ISA_SET_POPCNT:
	case ZYDIS_ISA_SET_LZCNT: /* LZCNT and TZCNT cannot be hidden by hardware: they mean what the processor means */
	case ZYDIS_ISA_SET_CMPXCHG16B:
	case ZYDIS_ISA_SET_FAT_NOP:
	case ZYDIS_ISA_SET_PAUSE:
	case ZYDIS_ISA_SET_AES:
	case ZYDIS_ISA_SET_PCLMULQDQ:
	case ZYDIS_ISA_SET_SHA:
	case ZYDIS_ISA_SET_SSE4A:
	case ZYDIS_ISA_SET_GFNI:
	case ZYDIS_ISA_SET_MOVDIR:
	case ZYDIS_ISA_SET_MOVBE:
	case ZYDIS_ISA_SET_ADOX_ADCX:
		return true;
	default:
		return false;
	}
}

static bool known_category(ZydisInstructionCategory category)
{
	switch (category) {
	case ZYDIS_CATEGORY_ADOX_ADCX:
	case ZYDIS_CATEGORY_AES:
	case ZYDIS_CATEGORY_BINARY:
	case ZYDIS_CATEGORY_BITBYTE:
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_CMOV:
	case ZYDIS_CATEGORY_COND_BR:
	case ZYDIS_CATEGORY_CONVERT:
	case ZYDIS_CATEGORY_DATAXFER:
	case ZYDIS_CATEGORY_FCMOV:
	case ZYDIS_CATEGORY_FLAGOP:
	case ZYDIS_CATEGORY_LOGICAL:
	case ZYDIS_CATEGORY_LOGICAL_FP:
	case ZYDIS_CATEGORY_GFNI:
	case ZYDIS_CATEGORY_LZCNT:
	case ZYDIS_CATEGORY_MOVDIR:
	case ZYDIS_CATEGORY_MISC:
	case ZYDIS_CATEGORY_MMX:
	case ZYDIS_CATEGORY_NOP:
	case ZYDIS_CATEGORY_PCLMULQDQ:
	case ZYDIS_CATEGORY_ROTATE:
	case ZYDIS_CATEGORY_SEMAPHORE:
	case ZYDIS_CATEGORY_SETCC:
	case ZYDIS_CATEGORY_SHA:
	case ZYDIS_CATEGORY_SHIFT:
	case ZYDIS_CATEGORY_SSE:
	case ZYDIS_CATEGORY_STTNI:
	case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_WIDENOP:
	case ZYDIS_CATEGORY_X87_ALU:
	case ZYDIS_CATEGORY_BLEND:
		return true;
	default:
		return false;
	}
}

/* Of allowed sets and categories, and yet not to be run as they are. */
static bool forbidden(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_CLI:
	case ZYDIS_MNEMONIC_STI:
	case ZYDIS_MNEMONIC_CLD:
	case ZYDIS_MNEMONIC_STD:
	case ZYDIS_MNEMONIC_CLTS:
	case ZYDIS_MNEMONIC_CLAC:
	case ZYDIS_MNEMONIC_STAC:
	case ZYDIS_MNEMONIC_CPUID:
	case ZYDIS_MNEMONIC_ENTER:
	case ZYDIS_MNEMONIC_LEAVE:
	case ZYDIS_MNEMONIC_XLAT:
	case ZYDIS_MNEMONIC_LDS:
	case ZYDIS_MNEMONIC_LES:
	case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGS:
	case ZYDIS_MNEMONIC_LSS:
	case ZYDIS_MNEMONIC_MONITOR:
	case ZYDIS_MNEMONIC_MWAIT:
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FLDENV:
		return true;
	default:
		return false;
	}
}

static bool inserted_vex(const struct insn *n)
{
	switch (n->i.mnemonic) {
	case ZYDIS_MNEMONIC_PEXT:
	case ZYDIS_MNEMONIC_SHRX:
	case ZYDIS_MNEMONIC_SARX:
	case ZYDIS_MNEMONIC_RORX:
		return n->i.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	default:
		return false;
	}
}

static bool special(ZydisRegister reg)
{
	switch (ZydisRegisterGetClass(reg)) {
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
	case ZYDIS_REGCLASS_X87:
	case ZYDIS_REGCLASS_MMX:
	case ZYDIS_REGCLASS_XMM:
	case ZYDIS_REGCLASS_FLAGS:
	case ZYDIS_REGCLASS_IP:
		return false;
	default:
		return reg != ZYDIS_REGISTER_MXCSR && reg != ZYDIS_REGISTER_X87CONTROL && reg != ZYDIS_REGISTER_X87STATUS &&
		       reg != ZYDIS_REGISTER_X87TAG;
	}
}

/* Number of the general register, -1 for others. AH..BH belong to RAX..RBX. */
static int gpr(ZydisRegister reg)
{
	ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
	return whole >= ZYDIS_REGISTER_RAX && whole <= ZYDIS_REGISTER_R15 ? (int)(whole - ZYDIS_REGISTER_RAX) : -1;
}

static int check_kind(struct run *r, const struct insn *n)
{
	if (n->i.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED)
		return refuse(r, "privileged instruction");
	if (!inserted_vex(n)) {
		if (n->i.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
			return refuse(r, "neither a legacy encoding nor an inserted BMI2 instruction");
		bool tzcnt = n->i.mnemonic == ZYDIS_MNEMONIC_TZCNT;
		if (!tzcnt && (!known_set(n->i.meta.isa_set) || !known_category(n->i.meta.category)))
			return refuse(r, "an instruction that is not on the list");
		if (forbidden(n->i.mnemonic))
			return refuse(r, "an instruction that C has to carry out");
	}
	if (n->i.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return refuse(r, "far branch");
	if (n->i.attributes & (ZYDIS_ATTRIB_HAS_SEGMENT_FS | ZYDIS_ATTRIB_HAS_SEGMENT_GS))
		return refuse(r, "host FS or GS");
	bool call = n->i.mnemonic == ZYDIS_MNEMONIC_CALL;
	for (unsigned k = 0; k < n->i.operand_count; k++) {
		const ZydisDecodedOperand *o = &n->operand[k];
		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		bool hidden = o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;
		if (special(o->reg.value) && !(hidden && call))
			return refuse(r, "segment, control, debug or wide vector register");
		bool count = n->i.mnemonic == ZYDIS_MNEMONIC_SHRX && k == 2;
		if (gpr(o->reg.value) == R_RSP_NUMBER && !count && !(hidden && call))
			return refuse(r, "host RSP as an operand");
	}
	return 0;
}

/* ---- Values -------------------------------------------------------------------------------------------------------- */

static struct value fresh(uint32_t at, int reg)
{
	return (struct value){.kind = VALUE, .id = 16 * at + (uint32_t)reg + 1};
}

static bool same(const struct value *a, const struct value *b)
{
	return a->kind == b->kind && a->write == b->write && a->size == b->size && a->id == b->id && a->offset == b->offset;
}

/* The latest checked stretch that holds [offset, offset + size) of id, and whose entry `delta` is of. */
static const struct checked *find_checked(const struct state *s, const struct value *delta, uint32_t id, int64_t offset,
					  unsigned size, bool write)
{
	for (unsigned k = 1; k <= CHECKED; k++) {
		const struct checked *c = &s->checked[(s->next + CHECKED - k) % CHECKED];
		if (c->size && c->id == id && delta->id == id && delta->offset == c->offset && (c->write || !write) &&
		    offset >= c->offset && (uint64_t)offset - (uint64_t)c->offset + size <= c->size)
			return c;
	}
	return NULL;
}

static void remember(struct state *s, struct checked c)
{
	s->checked[s->next] = c;
	s->next = (uint8_t)((s->next + 1) % CHECKED);
}

struct memory {
	int base, index;
	unsigned scale, size;
	int64_t displacement;
	bool read, write;
};

static int decode_memory(struct run *r, const ZydisDecodedOperand *o, struct memory *m)
{
	*m = (struct memory){.base = -1, .index = -1, .scale = o->mem.scale, .size = o->size / 8u,
			     .displacement = o->mem.disp.has_displacement ? o->mem.disp.value : 0,
			     .read = o->actions & ZYDIS_OPERAND_ACTION_MASK_READ,
			     .write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE};
	if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP)
		return refuse(r, "memory by RIP");
	if (o->mem.base != ZYDIS_REGISTER_NONE) {
		if (ZydisRegisterGetClass(o->mem.base) != ZYDIS_REGCLASS_GPR64)
			return refuse(r, "address of less than 64 bits");
		m->base = gpr(o->mem.base);
	}
	if (o->mem.index != ZYDIS_REGISTER_NONE) {
		if (ZydisRegisterGetClass(o->mem.index) != ZYDIS_REGCLASS_GPR64)
			return refuse(r, "address of less than 64 bits");
		m->index = gpr(o->mem.index);
	}
	return 0;
}

#define FIELD_AT(field)  ((int64_t)offsetof(struct soft_cpu, field))
#define FIELD_END(field) (FIELD_AT(field) + (int64_t)sizeof(((struct soft_cpu *)0)->field))

static bool inside(int64_t at, unsigned size, int64_t from, int64_t to)
{
	return at >= from && at + size <= to;
}

/* The slots that translated code works with. The rest of struct soft_cpu are host addresses, which the guest must not learn,
 * and what only C may change. */
static int check_slot(struct run *r, const struct memory *m)
{
#define SLOT_OF(field, write) {FIELD_AT(field), FIELD_END(field), write}
	static const struct {
		int64_t from, to;
		bool write;
	} slots[] = {SLOT_OF(gpr, true),
		     SLOT_OF(spill, true),
		     SLOT_OF(count, true),
		     SLOT_OF(tlb_mask, false),
		     SLOT_OF(bit_mask, false),
		     SLOT_OF(canonical_mask, false),
		     SLOT_OF(segment[FT_FS].base, false),
		     SLOT_OF(segment[FT_GS].base, false)};
#undef SLOT_OF
	int64_t at = m->displacement + SOFT_HOT;
	for (size_t k = 0; k < sizeof(slots) / sizeof(slots[0]); k++)
		if (inside(at, m->size, slots[k].from, slots[k].to))
			return m->write && !slots[k].write
				       ? refuse(r, "store to a slot that is not translated code's")
				       : 0;
	return refuse(r, "no slot of translated code");
}

static int64_t from_hot(const struct run *r, const void *p)
{
	return (int64_t)((const uint8_t *)p - ((const uint8_t *)r->cpu + SOFT_HOT));
}

/* Loads from the TLB. *out: what the loaded register knows. */
static int check_tlb(struct run *r, const struct state *s, const struct memory *m, struct value *out)
{
	const struct soft_tlb *tlb = r->cpu->tlb[r->user];
	const struct value *index = &s->reg[m->index];
	if (m->write || m->size != 8 || m->scale != 8 || index->kind != INDEX)
		return refuse(r, "indexed access to the CPU's memory that is no TLB load");
	*out = *index;
	if (m->displacement == from_hot(r, tlb->rtag) || m->displacement == from_hot(r, tlb->wtag)) {
		out->kind = TAG;
		out->write = m->displacement == from_hot(r, tlb->wtag);
	} else if (m->displacement == from_hot(r, tlb->add)) {
		out->kind = DELTA;
	} else {
		return refuse(r, "TLB load from no array of this privilege");
	}
	return 0;
}

/* An address that is neither slot nor TLB: what it points at, size bytes of which may be used. */
static int host_address(struct run *r, const struct state *s, const struct memory *m, struct value *out)
{
	*out = (struct value){.kind = HOST};
	if (m->base >= 0 && m->index < 0 && s->reg[m->base].kind == HOST) {
		const struct value *v = &s->reg[m->base];
		if (m->displacement < 0 || m->displacement > v->size)
			return refuse(r, "outside of what was checked");
		out->write = v->write;
		out->size = (uint8_t)(v->size - m->displacement);
		return 0;
	}
	if (m->base < 0 || m->index < 0 || m->scale != 1)
		return refuse(r, "memory by an unchecked address");
	const struct value *a = &s->reg[m->base], *b = &s->reg[m->index];
	const struct value *delta = a->kind == DELTA ? a : b, *address = a->kind == DELTA ? b : a;
	if (delta->kind != DELTA || address->kind != VALUE)
		return refuse(r, "memory by an unchecked address");
	int64_t offset = sum(address->offset, m->displacement);
	const struct checked *c = find_checked(s, delta, address->id, offset, 1, m->write);
	if (!c)
		return refuse(r, m->write ? "store through an entry that was not compared for writing here"
					  : "access through an entry that was not compared here");
	out->write = c->write;
	out->size = (uint8_t)(c->size - (offset - c->offset));
	return 0;
}

/* A memory operand that is really accessed. *loaded: what a 64-bit load from it yields, VALUE when nothing is known. */
static int check_memory(struct run *r, const struct state *s, const ZydisDecodedOperand *o, struct value *loaded)
{
	struct memory m;
	int error = decode_memory(r, o, &m);
	if (error)
		return error;
	*loaded = (struct value){.kind = VALUE};
	if (m.base == R_RSP_NUMBER)
		return m.index < 0 ? check_slot(r, &m) : check_tlb(r, s, &m, loaded);
	struct value host;
	error = host_address(r, s, &m, &host);
	if (error)
		return error;
	if (m.size == 0 || m.size > host.size)
		return refuse(r, "more bytes than were checked");
	if (m.write && !host.write)
		return refuse(r, "store to what was checked for reading");
	return 0;
}

/* ---- One instruction ----------------------------------------------------------------------------------------------- */

/* Result of `lea reg64, ...` and of moves between registers, of which more than "a value" is known. */
static struct value lea_value(struct run *r, const struct state *s, const ZydisDecodedOperand *o, uint32_t at, int reg)
{
	struct memory m;
	struct value unknown = fresh(at, reg);
	if (o->mem.base == ZYDIS_REGISTER_RIP || decode_memory(r, o, &m))
		return unknown;
	m.write = false;
	if (m.base >= 0 && m.base != R_RSP_NUMBER && m.index < 0) {
		struct value v = s->reg[m.base];
		if (v.kind == VALUE) {
			v.offset = sum(v.offset, m.displacement);
			return v;
		}
	}
	if (m.base < 0 || m.index < 0 || m.scale != 1)
		return unknown;
	const struct value *a = &s->reg[m.base], *b = &s->reg[m.index];
	const struct value *tag = a->kind == TAG ? a : b, *address = a->kind == TAG ? b : a;
	if (tag->kind == TAG && address->kind == VALUE && address->id == tag->id) {
		int64_t size = sum(sum(address->offset, m.displacement), sum(~tag->offset, 2)); /* their difference and 1 */
		if (size >= 1 && size <= 64)
			return (struct value){.kind = SUM, .write = tag->write, .size = (uint8_t)size, .id = tag->id,
					      .offset = tag->offset};
		return unknown;
	}
	if (a->kind == DELTA || b->kind == DELTA) {
		struct value host;
		struct ft_error *err = r->err, quiet = {0};
		r->err = &quiet;
		int error = host_address(r, s, &m, &host);
		r->err = err;
		/* Without a check it is an address that must not be used: an index of nothing. */
		return error ? (struct value){.kind = HOST} : host;
	}
	return unknown;
}

static bool secret(const struct value *v)
{
	return v->kind == TAG || v->kind == DELTA || v->kind == HOST;
}

static bool slot_operand(const ZydisDecodedOperand *o, size_t field)
{
	return o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.base == ZYDIS_REGISTER_RSP &&
	       o->mem.index == ZYDIS_REGISTER_NONE && o->mem.disp.value + SOFT_HOT == (int64_t)field;
}

/* What the destination of a register-writing instruction knows afterwards. */
static struct value result_value(struct run *r, const struct state *s, const struct insn *n, int reg,
				 const struct value *loaded)
{
	const ZydisDecodedOperand *o = n->operand;
	struct value unknown = fresh(n->at, reg);
	/* A 32-bit constant is zero-extended: the index for a thunk. */
	if (n->i.mnemonic == ZYDIS_MNEMONIC_MOV && o[0].size >= 32 && o[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
		return (struct value){.kind = VALUE, .offset = o[0].size == 32 ? (int64_t)(uint32_t)o[1].imm.value.u : (int64_t)o[1].imm.value.u};
	if (o[0].type != ZYDIS_OPERAND_TYPE_REGISTER || o[0].size != 64)
		return unknown;
	switch (n->i.mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		if (o[1].type == ZYDIS_OPERAND_TYPE_REGISTER && o[1].size == 64 && gpr(o[1].reg.value) >= 0)
			return s->reg[gpr(o[1].reg.value)];
		return o[1].type == ZYDIS_OPERAND_TYPE_MEMORY && loaded->kind != VALUE ? *loaded : unknown;
	case ZYDIS_MNEMONIC_LEA:
		return n->i.address_width == 64 ? lea_value(r, s, &o[1], n->at, reg) : unknown;
	case ZYDIS_MNEMONIC_PEXT:
		if (slot_operand(&o[2], offsetof(struct soft_cpu, tlb_mask)) && s->reg[gpr(o[1].reg.value)].kind == VALUE) {
			struct value v = s->reg[gpr(o[1].reg.value)];
			v.kind = INDEX;
			return v;
		}
		return unknown;
	case ZYDIS_MNEMONIC_SHRX:
		/* RSP is 12 (mod 64): checked once, where the block is. */
		if (gpr(o[2].reg.value) == R_RSP_NUMBER && o[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    s->reg[gpr(o[1].reg.value)].kind == SUM) {
			struct value v = s->reg[gpr(o[1].reg.value)];
			v.kind = OVER;
			return v;
		}
		return unknown;
	default:
		return unknown;
	}
}

/* Values that come from host addresses may be used to address, moved, and combined by inserted instructions; nothing else
 * may read them, or they could reach the guest. */
static int check_secrets(struct run *r, const struct state *s, const struct insn *n)
{
	bool plain_move = n->i.mnemonic == ZYDIS_MNEMONIC_MOV && n->operand[0].type == ZYDIS_OPERAND_TYPE_REGISTER;
	if (plain_move || n->i.mnemonic == ZYDIS_MNEMONIC_LEA || inserted_vex(n))
		return 0;
	for (unsigned k = 0; k < n->i.operand_count; k++) {
		const ZydisDecodedOperand *o = &n->operand[k];
		int reg = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? gpr(o->reg.value) : -1;
		if (reg >= 0 && (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ) && secret(&s->reg[reg]))
			return refuse(r, "a host address as data");
	}
	return 0;
}

/* Can the processor raise an exception here, with an address that was checked? Division, what MXCSR or the x87 control word
 * unmask, and what this processor may not have: all but plain integer instructions. The mask moves raise nothing that the
 * MOVD in front of them has not raised. */
static bool may_raise(const struct insn *n)
{
	switch (n->i.meta.isa_set) {
	case ZYDIS_ISA_SET_I86:
	case ZYDIS_ISA_SET_I186:
	case ZYDIS_ISA_SET_I386:
	case ZYDIS_ISA_SET_I486:
	case ZYDIS_ISA_SET_I486REAL:
	case ZYDIS_ISA_SET_PENTIUMREAL:
	case ZYDIS_ISA_SET_CMOV:
	case ZYDIS_ISA_SET_LONGMODE:
	case ZYDIS_ISA_SET_LAHF:
	case ZYDIS_ISA_SET_CMPXCHG16B:
	case ZYDIS_ISA_SET_FAT_NOP:
		return n->i.mnemonic == ZYDIS_MNEMONIC_DIV || n->i.mnemonic == ZYDIS_MNEMONIC_IDIV;
	default:
		return n->i.mnemonic != ZYDIS_MNEMONIC_MASKMOVQ && n->i.mnemonic != ZYDIS_MNEMONIC_MASKMOVDQU;
	}
}

/* A guest's register that code borrows is back before anybody looks at the guest's registers: an exception finds them in the
 * processor and in their slots, and knows of none that is lent. */
static int check_lent(struct run *r, struct state *s, const struct insn *n)
{
	const ZydisDecodedOperand *o = n->operand;
	bool mov = n->i.mnemonic == ZYDIS_MNEMONIC_MOV;
	for (unsigned k = 0; k < 2; k++) {
		size_t slot = offsetof(struct soft_cpu, spill) + 8 * k;
		int saved = mov && slot_operand(&o[0], slot) && o[1].type == ZYDIS_OPERAND_TYPE_REGISTER && o[1].size == 64
				? gpr(o[1].reg.value)
				: -1;
		int loaded = mov && slot_operand(&o[1], slot) && o[0].size == 64 ? gpr(o[0].reg.value) : -1;
		/* RCX and R15 are nobody's: their slots have the guest's values. */
		if (saved >= 0 && saved != 1 && saved != 15) {
			if (s->lent[k])
				return refuse(r, "a register is lent where another one is kept");
			s->lent[k] = (uint8_t)(saved + 1);
		} else if (loaded >= 0 && s->lent[k] == loaded + 1) {
			s->lent[k] = 0;
		} else if (s->lent[k] && slot_operand(&o[0], slot) && (o[0].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)) {
			return refuse(r, "a lent register's value is overwritten");
		}
	}
	if (!s->lent[0] && !s->lent[1])
		return 0;
	if (n->i.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
		return refuse(r, "a branch while a guest register is lent");
	return may_raise(n) ? refuse(r, "what may raise an exception, while a guest register is lent") : 0;
}

static int step(struct run *r, struct state *s, const struct insn *n)
{
	int error = check_kind(r, n);
	if (!error)
		error = check_secrets(r, s, n);
	if (!error)
		error = check_lent(r, s, n);
	struct value loaded = {.kind = VALUE};
	bool lea = n->i.mnemonic == ZYDIS_MNEMONIC_LEA, call = n->i.mnemonic == ZYDIS_MNEMONIC_CALL;
	for (unsigned k = 0; !error && k < n->i.operand_count; k++)
		if (n->operand[k].type == ZYDIS_OPERAND_TYPE_MEMORY && !lea &&
		    !(call && n->operand[k].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN))
			error = check_memory(r, s, &n->operand[k], &loaded);
	if (error)
		return error;
	struct state before = *s;
	for (unsigned k = 0; k < n->i.operand_count; k++) {
		const ZydisDecodedOperand *o = &n->operand[k];
		int reg = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? gpr(o->reg.value) : -1;
		if (reg < 0 || !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) || reg == R_RSP_NUMBER)
			continue;
		s->reg[reg] = k == 0 ? result_value(r, &before, n, reg, &loaded) : fresh(n->at, reg);
	}
	return 0;
}

/* ---- Branches ------------------------------------------------------------------------------------------------------ */

static int check_leaving(struct run *r, const struct state *s)
{
	for (int reg = 0; reg < 16; reg++)
		if (reg != 1 && reg != 4 && reg != 15 && secret(&s->reg[reg]))
			return refuse(r, "a guest register holds a host address where the block ends");
	return 0;
}

static int thunk_at(const struct run *r, const uint8_t *target)
{
	const struct soft_blocks *b = r->cpu->blocks;
	for (int t = 0; t < SOFT_THUNKS; t++)
		if (target == b->code + b->thunk[t])
			return t;
	return -1;
}

static bool has_index(const struct state *s)
{
	return s->reg[1].kind == VALUE && s->reg[1].id == 0 && (uint64_t)s->reg[1].offset <= UINT32_MAX;
}

/* What a thunk finds by the index is there. Once blocks have their own records, and no index of their own: they never
 * expire. */
static bool index_exists(const struct run *r, const struct state *s, int thunk)
{
	const struct soft_blocks *b = r->cpu->blocks;
	uint32_t index = (uint32_t)s->reg[1].offset;
	switch (thunk) {
	case SOFT_THUNK_EXPIRED: /* the block in question is the next one to be counted */
		return r->once ? index == SOFT_NONE : index <= b->block_used;
	case SOFT_THUNK_LINK:
		return index < b->link_used;
	case SOFT_THUNK_OPERATION:
		return r->once ? index - SOFT_RECORD_ONCE < SOFT_BLOCK_MOST : index < b->record_used;
	default: /* of an instruction of the block */
		return index >> SOFT_INFO_INSN_SHIFT < SOFT_BLOCK_MOST;
	}
}

static int check_jump_out(struct run *r, const struct state *s, const uint8_t *target)
{
	int thunk = thunk_at(r, target), error = check_leaving(r, s);
	if (error)
		return error;
	switch (thunk) {
	case SOFT_THUNK_EXPIRED:
	case SOFT_THUNK_LINK:
		if (!has_index(s))
			return refuse(r, "a thunk without a constant index");
		return index_exists(r, s, thunk) ? 0 : refuse(r, "a thunk with the index of nothing");
	case SOFT_THUNK_JUMP:
		return secret(&s->reg[15]) ? refuse(r, "a host address as a target") : 0;
	case SOFT_THUNK_LOOKUP:
	case SOFT_THUNK_LOOKUP_USER:
		if (secret(&s->reg[15]))
			return refuse(r, "a host address as a target");
		return (thunk == SOFT_THUNK_LOOKUP_USER) == r->user ? 0 : refuse(r, "the jump cache of another privilege");
	default:
		return refuse(r, "a branch to nothing that may be branched to");
	}
}

/* The state behind a call of a thunk. */
static int call_thunk(struct run *r, struct state *s, const struct insn *n, const uint8_t *target)
{
	int thunk = thunk_at(r, target);
	if (!has_index(s))
		return refuse(r, "a thunk without a constant index");
	if (!index_exists(r, s, thunk))
		return refuse(r, "a thunk with the index of nothing");
	uint32_t info = (uint32_t)s->reg[1].offset;
	if (thunk != SOFT_THUNK_OPERATION && ((info & SOFT_INFO_SIZE) == 0 || (info & SOFT_INFO_SIZE) > 64))
		return refuse(r, "an access of a size that does not exist");
	switch (thunk) {
	case SOFT_THUNK_MEMORY:
	case SOFT_THUNK_SLOW: {
		struct value address = s->reg[15];
		if (address.kind != VALUE)
			address = s->reg[15] = fresh(n->at, 15);
		s->reg[1] = (struct value){.kind = DELTA, .id = address.id, .offset = address.offset};
		remember(s, (struct checked){.write = info & SOFT_INFO_WRITE, .size = info & SOFT_INFO_SIZE, .id = address.id,
					     .offset = address.offset});
		return 0;
	}
	case SOFT_THUNK_COMMIT:
	case SOFT_THUNK_OPERATION: {
		int error = check_leaving(r, s);
		for (int reg = 0; reg < 16; reg++)
			s->reg[reg] = fresh(n->at, reg);
		memset(s->checked, 0, sizeof(s->checked));
		return error;
	}
	default:
		return refuse(r, "a call of what is no thunk to be called");
	}
}

/* The state arrives at instruction `to`: what two paths disagree about is not known. */
static bool arrive(struct run *r, uint32_t to, const struct state *s)
{
	struct state *have = &r->state[to];
	if (!r->seen[to]) {
		*have = *s;
		r->seen[to] = 3;
		return true;
	}
	bool changed = false;
	for (int reg = 0; reg < 16; reg++) {
		/* Above all ids that instructions give. */
		struct value merged = fresh((uint32_t)r->length + r->insn[to].at, reg);
		if (same(&have->reg[reg], &s->reg[reg]) || same(&have->reg[reg], &merged))
			continue;
		if (secret(&have->reg[reg]) || secret(&s->reg[reg]))
			merged = (struct value){.kind = HOST}; /* of size 0: of no use, and not to be given away */
		if (same(&have->reg[reg], &merged))
			continue;
		have->reg[reg] = merged;
		changed = true;
	}
	/* Nobody branches with a register lent, so ways that meet agree; a stranger's would not get past the next branch. */
	for (unsigned k = 0; k < 2; k++)
		if (s->lent[k] && !have->lent[k]) {
			have->lent[k] = s->lent[k];
			changed = true;
		}
	for (unsigned k = 0; k < CHECKED; k++) {
		struct checked *c = &have->checked[k];
		bool both = c->size == 0;
		for (unsigned j = 0; j < CHECKED && !both; j++)
			both = s->checked[j].id == c->id && s->checked[j].offset == c->offset &&
			       s->checked[j].size >= c->size && s->checked[j].write >= c->write;
		if (!both) {
			c->size = 0;
			changed = true;
		}
	}
	if (changed)
		r->seen[to] |= 2;
	return changed;
}

static int branch_to(struct run *r, const struct state *s, const uint8_t *target)
{
	if (target < r->code || target >= r->code + r->length)
		return check_jump_out(r, s, target);
	size_t at = (size_t)(target - r->code);
	if (at == r->entry || at == 0) /* round again, or out of budget: any state will do there */
		return check_leaving(r, s);
	if (r->index[at] == NONE)
		return refuse(r, "a branch into the middle of an instruction");
	arrive(r, r->index[at], s);
	return 0;
}

/* Follows instruction k once, handing its state on. */
static int follow(struct run *r, uint32_t k)
{
	const struct insn *n = &r->insn[k];
	struct state s = r->state[k];
	r->now = n;
	int error = step(r, &s, n);
	if (error)
		return error;
	bool through = true;
	if (n->i.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE) {
		if (n->operand[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE || !n->operand[0].imm.is_relative)
			return refuse(r, "indirect branch");
		const uint8_t *target = r->code + n->at + n->i.length + n->operand[0].imm.value.s;
		if (n->i.mnemonic == ZYDIS_MNEMONIC_CALL) {
			error = call_thunk(r, &s, n, target);
		} else {
			struct state taken = s;
			const struct value *rcx = &s.reg[1];
			if (n->i.mnemonic == ZYDIS_MNEMONIC_JRCXZ && rcx->kind == OVER)
				remember(&taken, (struct checked){.write = rcx->write, .size = rcx->size, .id = rcx->id,
								  .offset = rcx->offset});
			error = branch_to(r, &taken, target);
			through = n->i.mnemonic != ZYDIS_MNEMONIC_JMP;
		}
	}
	if (!error && through) {
		if (k + 1 == r->count)
			return refuse(r, "a way over the end");
		arrive(r, k + 1, &s);
	}
	return error;
}

/* ---- The block ----------------------------------------------------------------------------------------------------- */

static int decode(struct run *r)
{
	ZydisDecoder decoder;
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (uint32_t at = 0; at < r->length;) {
		struct insn *n = &r->insn[r->count];
		n->at = at;
		r->now = n;
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, r->code + at, r->length - at, &n->i, n->operand))) {
			n->i.length = 1;
			n->i.mnemonic = ZYDIS_MNEMONIC_INVALID;
			return refuse(r, "not an instruction");
		}
		r->index[at] = r->count++;
		at += n->i.length;
	}
	return r->index[r->entry] == NONE ? refuse(r, "the entry is no instruction") : 0;
}

/* Direct successors inside the block, for the search for circles. */
static uint32_t branch_index(const struct run *r, uint32_t k)
{
	const struct insn *n = &r->insn[k];
	if (n->i.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE || n->i.mnemonic == ZYDIS_MNEMONIC_CALL)
		return NONE;
	int64_t at = (int64_t)n->at + n->i.length + n->operand[0].imm.value.s;
	if (at <= 0 || (size_t)at >= r->length || (size_t)at == r->entry)
		return NONE;
	return r->index[at];
}

/* An id stands for one value only if no instruction runs twice between two entries. Depth-first; seen: 4 on the path,
 * 8 done; `state` is no longer needed and serves as the stack. */
static int check_circles(struct run *r)
{
	uint32_t *stack = (uint32_t *)(void *)r->state, depth = 0;
	for (uint32_t root = 0; root < r->count; root++) {
		if (!(r->seen[root] & 1) || (r->seen[root] & 8))
			continue;
		stack[depth++] = root;
		while (depth) {
			uint32_t k = stack[depth - 1];
			if (r->seen[k] & 4) {
				r->seen[k] = (uint8_t)((r->seen[k] & ~4) | 8);
				depth--;
				continue;
			}
			if (r->seen[k] & 8) {
				depth--;
				continue;
			}
			r->seen[k] |= 4;
			uint32_t next[2] = {branch_index(r, k),
					    r->insn[k].i.mnemonic == ZYDIS_MNEMONIC_JMP ? NONE : k + 1};
			for (unsigned j = 0; j < 2; j++) {
				if (next[j] == NONE || next[j] >= r->count || (r->seen[next[j]] & 8))
					continue;
				r->now = &r->insn[k];
				if (r->seen[next[j]] & 4)
					return refuse(r, "a circle inside of the block");
				stack[depth++] = next[j];
			}
		}
	}
	return 0;
}

static int follow_all(struct run *r)
{
	struct state start = {0};
	for (int reg = 0; reg < 16; reg++)
		start.reg[reg] = fresh(2 * (uint32_t)r->length, reg);
	arrive(r, 0, &start);
	arrive(r, r->index[r->entry], &start);
	bool more = true;
	while (more) {
		more = false;
		for (uint32_t k = 0; k < r->count; k++) {
			if (!(r->seen[k] & 2))
				continue;
			r->seen[k] &= (uint8_t)~2;
			more = true;
			int error = follow(r, k);
			if (error)
				return error;
		}
	}
	return 0;
}

int soft_verify(const struct soft_cpu *cpu, const uint8_t *code, size_t length, size_t entry, uint8_t mode,
		struct ft_error *err)
{
	struct run r = {.cpu = cpu,
			.code = code,
			.length = length,
			.entry = entry,
			.user = mode & SOFT_MODE_USER,
			.once = mode & SOFT_MODE_ONCE,
			.err = err};
	if (length == 0 || length > SOFT_BLOCK_ROOM || entry >= length)
		return refuse(&r, "a block of impossible size");
	if (((uintptr_t)cpu + SOFT_HOT) % 64 != 12)
		return refuse(&r, "host RSP would not be 12 (mod 64)");
	r.insn = malloc(length * sizeof(*r.insn));
	r.state = malloc(length * sizeof(*r.state));
	r.seen = calloc(length, 1);
	r.index = malloc(length * sizeof(*r.index));
	int error = -ENOMEM;
	if (r.insn && r.state && r.seen && r.index) {
		memset(r.index, 0xff, length * sizeof(*r.index));
		error = decode(&r);
		if (!error)
			error = follow_all(&r);
		if (!error)
			error = check_circles(&r);
	} else {
		ft_error_set(err, -ENOMEM, "no memory for the verifier");
	}
	free(r.insn);
	free(r.state);
	free(r.seen);
	free(r.index);
	return error;
}
