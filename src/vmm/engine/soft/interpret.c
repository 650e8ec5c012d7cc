/* One instruction of 32-bit code at a time. Boot code passes through it for a few dozen instructions: Linux' decompressor
 * leaves long mode to choose between 4 and 5 levels of paging (arch/x86/boot/compressed/head_64.S) and firmware-less
 * entries begin in protected mode. The subset is what such trampolines are made of: moves, arithmetic, branches, stack,
 * control registers, MSRs, far transfers. Anything else, and all 16-bit addressing, is #UD. 32-bit user code never gets
 * here (segment.c). */
#include "vmm/engine/soft/system.h"

struct decode {
	struct soft_cpu *cpu;
	uint8_t bytes[15];
	unsigned have, at;
	unsigned size;    /* operand size of the instruction: 2 or 4 */
	unsigned segment; /* override or FT_SEGMENTS */
	bool faulted;
	/* ModRM */
	bool memory;
	unsigned reg, rm, operand_segment;
	uint32_t offset;
};

/* The code bytes that can be had: up to 15, fewer when the next page is absent or the limit is near. */
static bool fetch(struct decode *d)
{
	struct soft_cpu *cpu = d->cpu;
	const struct ft_segment *cs = &cpu->segment[FT_CS];
	uint32_t eip = (uint32_t)cpu->rip;
	if (eip > cs->limit) {
		soft_gp(cpu, 0);
		return false;
	}
	unsigned want = cs->limit - eip < 14 ? cs->limit - eip + 1 : 15;
	uint32_t linear = (uint32_t)(cs->base + eip), room = FT_PAGE_SIZE - (linear & (FT_PAGE_SIZE - 1));
	for (unsigned part = 0; part < 2 && d->have < want; part++) {
		bool mmio;
		uint64_t gpa;
		const uint8_t *host = soft_translate(cpu, (uint32_t)(linear + d->have), SOFT_EXECUTE,
						     soft_user(cpu), &mmio, &gpa);
		if (!host) {
			/* What lies behind the instruction may be absent; need() reports it if it is not behind. */
			if (part == 0 && mmio)
				soft_gp(cpu, 0);
			return part == 1;
		}
		unsigned n = room < want - d->have && part == 0 ? room : want - d->have;
		soft_copy(d->bytes + d->have, host, n);
		d->have += n;
	}
	cpu->fault.pending = false;
	return true;
}

static uint32_t take(struct decode *d, unsigned n)
{
	uint32_t value = 0;
	if (d->at + n > d->have) {
		if (!d->faulted && !d->cpu->fault.pending)
			soft_gp(d->cpu, 0);
		d->faulted = true;
		return 0;
	}
	soft_copy(&value, d->bytes + d->at, n);
	d->at += n;
	return value;
}

static uint32_t take_signed(struct decode *d, unsigned n)
{
	uint32_t value = take(d, n);
	return n == 1 ? (uint32_t)(int8_t)value : n == 2 ? (uint32_t)(int16_t)value : value;
}

static uint32_t low(uint32_t value, unsigned size)
{
	return size == 4 ? value : value & ((1u << (size * 8)) - 1);
}

static uint32_t get_reg(const struct decode *d, unsigned n, unsigned size)
{
	if (size == 1)
		return (uint8_t)(d->cpu->gpr[n & 3] >> (n & 4 ? 8 : 0));
	return low((uint32_t)d->cpu->gpr[n], size);
}

static void set_reg(struct decode *d, unsigned n, unsigned size, uint32_t value)
{
	if (size == 1) {
		unsigned shift = n & 4 ? 8 : 0;
		uint64_t *gpr = &d->cpu->gpr[n & 3];
		*gpr = (*gpr & ~(0xffull << shift)) | (uint64_t)(value & 0xff) << shift;
		return;
	}
	soft_set_gpr(d->cpu, n, size, value);
}

/* ---- Memory, with segment checks (SDM Vol. 3A 5.3, 5.4) ---- */

static bool linear(struct decode *d, unsigned name, uint32_t offset, unsigned size, bool write,
		   uint32_t *address)
{
	const struct ft_segment *segment = &d->cpu->segment[name];
	unsigned attributes = segment->attributes;
	uint8_t vector = name == FT_SS ? SOFT_SS : SOFT_GP;
	bool code = attributes & SEG_CODE;
	bool good = (attributes & SEG_PRESENT) &&
		    (write ? !code && (attributes & SEG_WRITABLE) : !code || (attributes & SEG_READABLE));
	uint32_t last = offset + size - 1;
	if (good && !code && (attributes & SEG_EXPAND))
		good =
		    offset > segment->limit && last >= offset && ((attributes & SEG_BIG) || last <= 0xffff);
	else
		good = good && last >= offset && last <= segment->limit;
	if (!good) {
		soft_raise(d->cpu, vector, true, 0, 0);
		d->faulted = true;
		return false;
	}
	*address = (uint32_t)(segment->base + offset);
	return true;
}

static uint32_t load(struct decode *d, unsigned segment, uint32_t offset, unsigned size)
{
	uint32_t address, value = 0;
	if (d->faulted || !linear(d, segment, offset, size, false, &address))
		return 0;
	if (!soft_load(d->cpu, address, &value, size, soft_user(d->cpu)))
		d->faulted = true;
	return value;
}

static bool store(struct decode *d, unsigned segment, uint32_t offset, unsigned size, uint32_t value)
{
	uint32_t address;
	if (d->faulted || !linear(d, segment, offset, size, true, &address))
		return false;
	if (!soft_store(d->cpu, address, &value, size, soft_user(d->cpu)))
		d->faulted = true;
	return !d->faulted;
}

static void push(struct decode *d, uint32_t value)
{
	uint32_t esp = (uint32_t)d->cpu->gpr[FT_RSP] - d->size;
	if (store(d, FT_SS, esp, d->size, value))
		d->cpu->gpr[FT_RSP] = esp;
}

static uint32_t pop(struct decode *d)
{
	uint32_t esp = (uint32_t)d->cpu->gpr[FT_RSP], value = load(d, FT_SS, esp, d->size);
	if (!d->faulted)
		d->cpu->gpr[FT_RSP] = (uint32_t)(esp + d->size);
	return value;
}

static void modrm(struct decode *d)
{
	uint8_t byte = (uint8_t)take(d, 1);
	unsigned mod = byte >> 6;
	d->reg = byte >> 3 & 7;
	d->rm = byte & 7;
	d->memory = mod != 3;
	if (!d->memory)
		return;
	unsigned base = d->rm;
	uint32_t offset = 0;
	if (base == 4) {
		uint8_t sib = (uint8_t)take(d, 1);
		unsigned index = sib >> 3 & 7;
		base = sib & 7;
		if (index != 4)
			offset = (uint32_t)d->cpu->gpr[index] << (sib >> 6);
	}
	bool none = mod == 0 && base == 5;
	if (!none)
		offset += (uint32_t)d->cpu->gpr[base];
	if (none || mod == 2)
		offset += take(d, 4);
	else if (mod == 1)
		offset += take_signed(d, 1);
	d->offset = offset;
	d->operand_segment = d->segment < FT_SEGMENTS                      ? d->segment
			     : !none && (base == FT_RSP || base == FT_RBP) ? FT_SS
									   : FT_DS;
}

static uint32_t get_rm(struct decode *d, unsigned size)
{
	return d->memory ? load(d, d->operand_segment, d->offset, size) : get_reg(d, d->rm, size);
}

static void set_rm(struct decode *d, unsigned size, uint32_t value)
{
	if (d->memory)
		store(d, d->operand_segment, d->offset, size, value);
	else if (!d->faulted)
		set_reg(d, d->rm, size, value);
}

/* ---- Arithmetic ---- */

static void set_flags(struct decode *d, uint64_t mask, uint64_t flags)
{
	if (!d->faulted)
		d->cpu->flags = (d->cpu->flags & ~mask) | (flags & mask);
}

static uint64_t result_flags(uint32_t value, unsigned size)
{
	value = low(value, size);
	return (value ? 0u : FLAG_ZF) | (value >> (size * 8 - 1) ? FLAG_SF : 0u) |
	       (__builtin_parity(value & 0xff) ? 0u : FLAG_PF);
}

/* The eight of opcodes 00-3F: ADD OR ADC SBB AND SUB XOR CMP. */
static uint32_t arithmetic(struct decode *d, unsigned operation, uint32_t a, uint32_t b, unsigned size,
			   uint64_t *flags)
{
	uint64_t wide, carry = d->cpu->flags & FLAG_CF;
	uint32_t result;
	bool subtract = operation == 3 || operation == 5 || operation == 7;
	if (operation == 1 || operation == 4 || operation == 6) {
		result = operation == 1 ? a | b : operation == 4 ? a & b : a ^ b;
		*flags = result_flags(result, size);
		return result;
	}
	if (operation != 2 && operation != 3)
		carry = 0;
	wide = subtract ? (uint64_t)a - b - carry : (uint64_t)a + b + carry;
	result = low((uint32_t)wide, size);
	uint32_t overflow = subtract ? (a ^ b) & (a ^ result) : (a ^ result) & (b ^ result);
	*flags = result_flags(result, size) | (wide >> (size * 8) & 1 ? FLAG_CF : 0u) |
		 (overflow >> (size * 8 - 1) & 1 ? FLAG_OF : 0u) | ((a ^ b ^ result) & FLAG_AF);
	return result;
}

static void arithmetic_rm(struct decode *d, unsigned operation, uint32_t b, unsigned size)
{
	uint64_t flags;
	uint32_t result = arithmetic(d, operation, get_rm(d, size), b, size, &flags);
	if (operation != 7)
		set_rm(d, size, result);
	set_flags(d, SOFT_FLAGS_ARITH, flags);
}

static void arithmetic_form(struct decode *d, uint8_t opcode)
{
	unsigned operation = opcode >> 3, size = opcode & 1 ? d->size : 1;
	uint64_t flags;
	uint32_t result;
	switch (opcode & 7) {
	case 0:
	case 1:
		modrm(d);
		arithmetic_rm(d, operation, get_reg(d, d->reg, size), size);
		return;
	case 2:
	case 3:
		modrm(d);
		result = arithmetic(d, operation, get_reg(d, d->reg, size), get_rm(d, size), size, &flags);
		if (operation != 7 && !d->faulted)
			set_reg(d, d->reg, size, result);
		break;
	default: {
		uint32_t b = take(d, size);
		result = arithmetic(d, operation, get_reg(d, 0, size), b, size, &flags);
		if (operation != 7 && !d->faulted)
			set_reg(d, 0, size, result);
	}
	}
	set_flags(d, SOFT_FLAGS_ARITH, flags);
}

static void increment(struct decode *d, bool memory_form, unsigned reg, unsigned size, bool down)
{
	uint64_t flags;
	uint32_t old = memory_form ? get_rm(d, size) : get_reg(d, reg, size);
	uint32_t result = arithmetic(d, down ? 5 : 0, old, 1, size, &flags);
	if (memory_form)
		set_rm(d, size, result);
	else
		set_reg(d, reg, size, result);
	set_flags(d, SOFT_FLAGS_ARITH & ~FLAG_CF, flags);
}

/* SHL, SHR, SAR; rotates are not needed. */
static bool shift(struct decode *d, unsigned count, unsigned size)
{
	uint32_t value = get_rm(d, size), result;
	uint64_t carry;
	count &= 31;
	if (d->reg < 4 || d->reg == 6)
		return false;
	if (!count)
		return true;
	if (d->reg == 4) {
		uint64_t wide = (uint64_t)value << count;
		result = low((uint32_t)wide, size);
		carry = wide >> (size * 8) & 1;
	} else {
		int64_t wide = size == 1 ? (int8_t)value : size == 2 ? (int16_t)value : (int32_t)value;
		if (d->reg == 5)
			wide = value;
		result = low((uint32_t)(wide >> count), size);
		carry = (uint64_t)(wide >> (count - 1)) & 1;
	}
	set_rm(d, size, result);
	uint64_t overflow = d->reg == 4   ? (result >> (size * 8 - 1) & 1) ^ carry
			    : d->reg == 5 ? value >> (size * 8 - 1)
					  : 0;
	set_flags(d, SOFT_FLAGS_ARITH, result_flags(result, size) | carry | (overflow ? FLAG_OF : 0));
	return true;
}

static void bit_test(struct decode *d, unsigned operation, uint32_t n, unsigned size)
{
	uint32_t value = get_rm(d, size), bit = 1u << (n & (size * 8 - 1));
	set_flags(d, FLAG_CF, value & bit ? FLAG_CF : 0);
	uint32_t result = operation == 1   ? value | bit
			  : operation == 2 ? value & ~bit
			  : operation == 3 ? value ^ bit
					   : value;
	if (operation)
		set_rm(d, size, result);
}

static bool condition(const struct decode *d, unsigned code)
{
	uint64_t f = d->cpu->flags;
	bool less = !(f & FLAG_SF) != !(f & FLAG_OF), taken;
	switch (code >> 1) {
	case 0:
		taken = f & FLAG_OF;
		break;
	case 1:
		taken = f & FLAG_CF;
		break;
	case 2:
		taken = f & FLAG_ZF;
		break;
	case 3:
		taken = f & (FLAG_CF | FLAG_ZF);
		break;
	case 4:
		taken = f & FLAG_SF;
		break;
	case 5:
		taken = f & FLAG_PF;
		break;
	case 6:
		taken = less;
		break;
	default:
		taken = less || (f & FLAG_ZF);
	}
	return taken != (code & 1);
}

/* ---- Control ---- */

static enum soft_result done(struct decode *d)
{
	if (d->faulted)
		return SOFT_FAULT;
	d->cpu->rip = (uint32_t)(d->cpu->rip + d->at);
	return SOFT_JUMP;
}

static enum soft_result branch(struct decode *d, uint32_t target)
{
	if (d->faulted)
		return SOFT_FAULT;
	if (target > d->cpu->segment[FT_CS].limit)
		return soft_gp(d->cpu, 0);
	d->cpu->rip = target;
	return SOFT_JUMP;
}

static enum soft_result relative(struct decode *d, uint32_t displacement, bool taken)
{
	return taken ? branch(d, (uint32_t)d->cpu->rip + d->at + displacement) : done(d);
}

/* What 32-bit code shares with 64-bit code goes to the same function. */
static enum soft_result shared(struct decode *d, enum soft_op op)
{
	struct soft_insn insn = {.op = (uint8_t)op,
				 .length = (uint8_t)d->at,
				 .operand_size = (uint8_t)d->size,
				 .address_size = 4,
				 .segment = FT_DS,
				 .modrm_reg = (uint8_t)d->reg,
				 .modrm_rm = (uint8_t)d->rm,
				 .base = 17,
				 .index = 16};
	if (d->faulted)
		return SOFT_FAULT;
	soft_copy(insn.bytes, d->bytes, sizeof(insn.bytes));
	if (d->memory) {
		uint32_t address;
		if (!linear(d, d->operand_segment, d->offset, op == SOFT_OP_INVLPG ? 1 : 6, false, &address))
			return SOFT_FAULT;
		insn.memory = true;
		insn.displacement = address;
	}
	enum soft_result result = soft_execute(d->cpu, &insn);
	if (result == SOFT_NEXT || result == SOFT_SYNC || result == SOFT_HALT)
		d->cpu->rip = (uint32_t)(d->cpu->rip + d->at);
	return result == SOFT_NEXT || result == SOFT_SYNC ? SOFT_JUMP : result;
}

static enum soft_result undefined(struct decode *d)
{
	return d->faulted ? SOFT_FAULT : soft_ud(d->cpu);
}

static enum soft_result far_pointer(struct decode *d)
{
	uint32_t offset = take(d, d->size);
	uint16_t selector = (uint16_t)take(d, 2);
	return d->faulted ? SOFT_FAULT : soft_far_jump(d->cpu, selector, offset);
}

static enum soft_result far_return(struct decode *d, uint16_t release)
{
	uint32_t esp = (uint32_t)d->cpu->gpr[FT_RSP];
	uint32_t eip = load(d, FT_SS, esp, d->size), selector = load(d, FT_SS, esp + d->size, d->size);
	if (d->faulted)
		return SOFT_FAULT;
	return soft_far_return(d->cpu, (uint16_t)selector, eip, esp + 2 * d->size, release, d->size);
}

static enum soft_result segment_load(struct decode *d, unsigned segment)
{
	uint16_t selector = (uint16_t)get_rm(d, 2);
	if (d->faulted)
		return SOFT_FAULT;
	if (segment == FT_CS || segment >= FT_SEGMENTS)
		return undefined(d);
	enum soft_result result = soft_load_segment(d->cpu, segment, selector);
	if (result != SOFT_NEXT)
		return result;
	if (segment == FT_SS)
		d->cpu->shadow_icount = d->cpu->icount + 1;
	return done(d);
}

static enum soft_result group_f6(struct decode *d, unsigned size)
{
	modrm(d);
	uint64_t flags;
	uint32_t value = get_rm(d, size);
	switch (d->reg) {
	case 0:
		arithmetic(d, 4, value, take(d, size), size, &flags);
		set_flags(d, SOFT_FLAGS_ARITH, flags);
		return done(d);
	case 2:
		set_rm(d, size, ~value);
		return done(d);
	case 3:
		value = arithmetic(d, 5, 0, value, size, &flags);
		set_rm(d, size, value);
		set_flags(d, SOFT_FLAGS_ARITH, flags);
		return done(d);
	default:
		return undefined(d);
	}
}

static enum soft_result group_ff(struct decode *d, unsigned size)
{
	modrm(d);
	switch (d->reg) {
	case 0:
	case 1:
		increment(d, true, 0, size, d->reg == 1);
		return done(d);
	case 2:
	case 4: {
		uint32_t target = get_rm(d, d->size);
		if (size == 1)
			return undefined(d);
		if (d->reg == 2)
			push(d, (uint32_t)d->cpu->rip + d->at);
		return branch(d, target);
	}
	case 5: {
		uint32_t offset = get_rm(d, d->size);
		if (size == 1 || !d->memory)
			return undefined(d);
		uint32_t selector = load(d, d->operand_segment, d->offset + d->size, 2);
		return d->faulted ? SOFT_FAULT : soft_far_jump(d->cpu, (uint16_t)selector, offset);
	}
	case 6:
		if (size == 1)
			return undefined(d);
		push(d, get_rm(d, d->size));
		return done(d);
	default:
		return undefined(d);
	}
}

static enum soft_result two_bytes(struct decode *d)
{
	uint8_t opcode = (uint8_t)take(d, 1);
	switch (opcode) {
	case 0x01:
		modrm(d);
		if (d->reg == 2 || d->reg == 3)
			return d->memory ? shared(d, d->reg == 2 ? SOFT_OP_LGDT : SOFT_OP_LIDT)
					 : undefined(d);
		return d->reg == 7 && d->memory ? shared(d, SOFT_OP_INVLPG) : undefined(d);
	case 0x06:
		return shared(d, SOFT_OP_CLTS);
	case 0x08:
	case 0x09:
		return shared(d, SOFT_OP_WBINVD);
	case 0x1f:
		modrm(d);
		return done(d);
	case 0x20:
	case 0x22:
		modrm(d);
		d->memory = false;
		return shared(d, opcode == 0x20 ? SOFT_OP_MOV_FROM_CR : SOFT_OP_MOV_TO_CR);
	case 0x30:
		return shared(d, SOFT_OP_WRMSR);
	case 0x31:
		return shared(d, SOFT_OP_RDTSC);
	case 0x32:
		return shared(d, SOFT_OP_RDMSR);
	case 0xa2:
		return shared(d, SOFT_OP_CPUID);
	case 0xa3:
	case 0xab:
	case 0xb3:
	case 0xbb:
		modrm(d);
		if (d->memory)
			return undefined(d); /* the bit offset may lead anywhere */
		bit_test(d, opcode >> 3 & 3, get_reg(d, d->reg, d->size), d->size);
		return done(d);
	case 0xba: {
		modrm(d);
		uint32_t n = take(d, 1);
		if (d->reg < 4)
			return undefined(d);
		bit_test(d, d->reg & 3, n, d->size);
		return done(d);
	}
	case 0xb6:
	case 0xb7:
	case 0xbe:
	case 0xbf: {
		modrm(d);
		unsigned size = opcode & 1 ? 2 : 1;
		uint32_t value = get_rm(d, size);
		if (opcode & 8)
			value = size == 1 ? (uint32_t)(int8_t)value : (uint32_t)(int16_t)value;
		if (!d->faulted)
			set_reg(d, d->reg, d->size, value);
		return done(d);
	}
	}
	if ((opcode & 0xf0) == 0x80)
		return relative(d, take_signed(d, d->size), condition(d, opcode & 15));
	if ((opcode & 0xf0) == 0x90) {
		modrm(d);
		set_rm(d, 1, condition(d, opcode & 15));
		return done(d);
	}
	if ((opcode & 0xf0) == 0x40) {
		modrm(d);
		uint32_t value = get_rm(d, d->size);
		if (!d->faulted)
			set_reg(d, d->reg, d->size,
				condition(d, opcode & 15) ? value : get_reg(d, d->reg, d->size));
		return done(d);
	}
	return undefined(d);
}

/* Opcodes that carry a register or condition in their low bits. */
static enum soft_result row(struct decode *d, uint8_t opcode)
{
	unsigned low3 = opcode & 7;
	if (opcode < 0x40 && low3 < 6) {
		arithmetic_form(d, opcode);
		return done(d);
	}
	switch (opcode >> 3) {
	case 0x40 >> 3:
	case 0x48 >> 3:
		increment(d, false, low3, d->size, opcode & 8);
		return done(d);
	case 0x50 >> 3:
		push(d, get_reg(d, low3, d->size));
		return done(d);
	case 0x58 >> 3: {
		uint32_t value = pop(d);
		if (!d->faulted)
			set_reg(d, low3, d->size, value);
		return done(d);
	}
	case 0x70 >> 3:
	case 0x78 >> 3:
		return relative(d, take_signed(d, 1), condition(d, opcode & 15));
	case 0xb0 >> 3:
	case 0xb8 >> 3: {
		unsigned size = opcode & 8 ? d->size : 1;
		uint32_t value = take(d, size);
		if (!d->faulted)
			set_reg(d, low3, size, value);
		return done(d);
	}
	}
	return undefined(d);
}

static enum soft_result one_byte(struct decode *d, uint8_t opcode)
{
	unsigned size = opcode & 1 ? d->size : 1;
	uint64_t flags;
	uint32_t value;
	switch (opcode) {
	case 0x0f:
		return two_bytes(d);
	case 0x68:
		push(d, take(d, d->size));
		return done(d);
	case 0x6a:
		push(d, take_signed(d, 1));
		return done(d);
	case 0x80:
	case 0x81:
	case 0x83:
		modrm(d);
		value = opcode == 0x83 ? take_signed(d, 1) : take(d, size);
		arithmetic_rm(d, d->reg, low(value, size), size);
		return done(d);
	case 0x84:
	case 0x85:
		modrm(d);
		arithmetic(d, 4, get_rm(d, size), get_reg(d, d->reg, size), size, &flags);
		set_flags(d, SOFT_FLAGS_ARITH, flags);
		return done(d);
	case 0xa8:
	case 0xa9:
		arithmetic(d, 4, get_reg(d, 0, size), take(d, size), size, &flags);
		set_flags(d, SOFT_FLAGS_ARITH, flags);
		return done(d);
	case 0x88:
	case 0x89:
		modrm(d);
		set_rm(d, size, get_reg(d, d->reg, size));
		return done(d);
	case 0x8a:
	case 0x8b:
		modrm(d);
		value = get_rm(d, size);
		if (!d->faulted)
			set_reg(d, d->reg, size, value);
		return done(d);
	case 0x8c:
		modrm(d);
		if (d->reg >= FT_SEGMENTS)
			return undefined(d);
		set_rm(d, d->memory ? 2 : d->size, d->cpu->segment[d->reg].selector);
		return done(d);
	case 0x8d:
		modrm(d);
		if (!d->memory)
			return undefined(d);
		if (!d->faulted)
			set_reg(d, d->reg, d->size, d->offset);
		return done(d);
	case 0x8e:
		modrm(d);
		return segment_load(d, d->reg);
	case 0x90:
		return done(d);
	case 0x9c:
		return shared(d, SOFT_OP_PUSHF);
	case 0x9d:
		return shared(d, SOFT_OP_POPF);
	case 0xc0:
	case 0xc1:
	case 0xd0:
	case 0xd1:
	case 0xd2:
	case 0xd3:
		modrm(d);
		value = opcode < 0xd0 ? take(d, 1) : opcode < 0xd2 ? 1 : get_reg(d, FT_RCX, 1);
		return shift(d, value, size) ? done(d) : undefined(d);
	case 0xc3:
		return branch(d, pop(d));
	case 0xc6:
	case 0xc7:
		modrm(d);
		if (d->reg)
			return undefined(d);
		set_rm(d, size, take(d, size));
		return done(d);
	case 0xca:
		return far_return(d, (uint16_t)take(d, 2));
	case 0xcb:
		return far_return(d, 0);
	case 0xe8:
		value = take_signed(d, d->size);
		push(d, (uint32_t)d->cpu->rip + d->at);
		return relative(d, value, true);
	case 0xe9:
		return relative(d, take_signed(d, d->size), true);
	case 0xea:
		return far_pointer(d);
	case 0xeb:
		return relative(d, take_signed(d, 1), true);
	case 0xf4:
		return shared(d, SOFT_OP_HLT);
	case 0xf6:
	case 0xf7:
		return group_f6(d, size);
	case 0xfa:
		return shared(d, SOFT_OP_CLI);
	case 0xfb:
		return shared(d, SOFT_OP_STI);
	case 0xfc:
		return shared(d, SOFT_OP_CLD);
	case 0xfe:
	case 0xff:
		return group_ff(d, size);
	default:
		return row(d, opcode);
	}
}

static bool prefix(struct decode *d, uint8_t byte, bool *refuse)
{
	static const uint8_t overrides[] = {
	    [0x26 - 0x26] = FT_ES, [0x2e - 0x26] = FT_CS, [0x36 - 0x26] = FT_SS, [0x3e - 0x26] = FT_DS};
	switch (byte) {
	case 0x66:
		d->size = 2;
		return true;
	case 0x26:
	case 0x2e:
	case 0x36:
	case 0x3e:
		d->segment = overrides[byte - 0x26];
		return true;
	case 0x64:
	case 0x65:
		d->segment = byte == 0x64 ? FT_FS : FT_GS;
		return true;
	case 0x67:
	case 0xf0:
	case 0xf2:
	case 0xf3:
		*refuse = true;
		return true;
	}
	return false;
}

enum soft_result soft_interpret(struct soft_cpu *cpu)
{
	struct decode d = {.cpu = cpu, .size = 4, .segment = FT_SEGMENTS};
	bool refuse = false;
	uint8_t byte;
	uint64_t rsp = cpu->gpr[FT_RSP];
	cpu->fault.pending = false;
	if (!(cpu->segment[FT_CS].attributes & SEG_BIG) || cpu->cpl)
		return soft_ud(cpu);
	if (!fetch(&d))
		return SOFT_FAULT;
	do
		byte = (uint8_t)take(&d, 1);
	while (!d.faulted && prefix(&d, byte, &refuse));
	enum soft_result result = d.faulted ? SOFT_FAULT : refuse ? soft_ud(cpu) : one_byte(&d, byte);
	if (result == SOFT_FAULT)
		cpu->gpr[FT_RSP] = rsp; /* RET, CALL and PUSH move it before their last check */
	else
		cpu->fault.pending = false;
	return result;
}
