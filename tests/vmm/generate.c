#include "generate.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "vmm/engine/mxcsr.h"

void generate_open(struct generate *g, uint64_t seed)
{
	/* Mixed twice: neighbouring seeds must not give the same sequence shifted by one. */
	g->random = seed;
	g->random = generate_random(g);
	g->random = generate_random(g);
	ZydisDecoderInit(&g->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
}

uint64_t generate_random(struct generate *g) /* splitmix64 */
{
	uint64_t z = g->random += 0x9e3779b97f4a7c15ull;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static unsigned below(struct generate *g, unsigned n)
{
	return (unsigned)(generate_random(g) % n);
}

/* Instruction sets of the engine's CPU model. */
static bool known_set(ZydisISASet set)
{
	switch (set) {
	case ZYDIS_ISA_SET_I86:
	case ZYDIS_ISA_SET_I186:
	case ZYDIS_ISA_SET_I386:
	case ZYDIS_ISA_SET_I486:
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
	case ZYDIS_ISA_SET_CMPXCHG16B:
	case ZYDIS_ISA_SET_FAT_NOP:
	case ZYDIS_ISA_SET_PAUSE:
	case ZYDIS_ISA_SET_SSE_PREFETCH:
		return true;
	default:
		return false;
	}
}

/* Left out: what a host kernel or the host's own segment bases would show through, what changes who traps next (TF, AC),
 * and what stores pointers into the code (the engine hides the host's). */
static bool comparable(const ZydisDecodedInstruction *i, const ZydisDecodedOperand *operands)
{
	if (i->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || !known_set(i->meta.isa_set))
		return false;
	switch (i->meta.category) {
	case ZYDIS_CATEGORY_SYSTEM:
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SYSRET:
	case ZYDIS_CATEGORY_IOSTRINGOP:
	case ZYDIS_CATEGORY_IO:
	case ZYDIS_CATEGORY_SEGOP:
		return false;
	default:
		break;
	}
	switch (i->mnemonic) {
	case ZYDIS_MNEMONIC_INT:
	case ZYDIS_MNEMONIC_INT1:
	case ZYDIS_MNEMONIC_INTO:
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ:
	case ZYDIS_MNEMONIC_CPUID:
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_FLDCW:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FSETPM287_NOP:
	case ZYDIS_MNEMONIC_UD0: /* AMD and Intel differ in whether it has a ModRM byte */
		return false;
	default:
		break;
	}
	/* AMD's LOOPE and LOOPNE take a repeat prefix for the condition. */
	for (unsigned k = 0; k < i->raw.prefix_count; k++)
		if ((i->raw.prefixes[k].value == 0xf2 || i->raw.prefixes[k].value == 0xf3) &&
		    (i->mnemonic == ZYDIS_MNEMONIC_LOOPE || i->mnemonic == ZYDIS_MNEMONIC_LOOPNE))
			return false;
	for (unsigned k = 0; k < i->operand_count; k++) {
		const ZydisDecodedOperand *o = &operands[k];
		if (o->type == ZYDIS_OPERAND_TYPE_POINTER)
			return false;
		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.segment == ZYDIS_REGISTER_FS)
			return false;
		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE &&
		    o->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
		    o->reg.value >= ZYDIS_REGISTER_ES && o->reg.value <= ZYDIS_REGISTER_GS)
			return false;
	}
	/* Near branches with an operand size prefix: AMD's go to 16-bit addresses, Intel's ignore it. */
	bool narrow = i->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE && (i->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE);
	return i->meta.branch_type != ZYDIS_BRANCH_TYPE_FAR && !narrow;
}

static unsigned put_prefixes(struct generate *g, uint8_t *to)
{
	static const uint8_t prefixes[] = {0x66, 0x66, 0x66, 0xf2, 0xf3, 0xf0, 0x67, 0x65, 0x2e};
	unsigned n = 0;
	for (unsigned chance = below(g, 8); chance > 4 && n < 3; chance--)
		to[n++] = prefixes[below(g, sizeof(prefixes))];
	if (below(g, 2))
		to[n++] = (uint8_t)(0x40 | below(g, 16));
	return n;
}

static unsigned put_opcode(struct generate *g, uint8_t *to)
{
	unsigned n = 0;
	switch (below(g, 8)) {
	case 0:
	case 1:
	case 2:
	case 3:
		to[n++] = (uint8_t)below(g, 256);
		break;
	case 4:
	case 5:
	case 6:
		to[n++] = 0x0f;
		to[n++] = (uint8_t)below(g, 256);
		break;
	default:
		to[n++] = 0x0f;
		to[n++] = below(g, 2) ? 0x38 : 0x3a;
		to[n++] = (uint8_t)below(g, 256);
		break;
	}
	return n;
}

/* One instruction; 0 when the dice gave none that can be compared. */
static unsigned put_instruction(struct generate *g, uint8_t *to)
{
	uint8_t bytes[24];
	unsigned n = put_prefixes(g, bytes);
	n += put_opcode(g, bytes + n);
	for (unsigned k = n; k < sizeof(bytes); k++)
		bytes[k] = (uint8_t)generate_random(g);
	if (below(g, 2)) /* small displacements and immediates: stay near what the registers point at */
		for (unsigned k = n + 3; k < sizeof(bytes); k++)
			bytes[k] = below(g, 4) ? 0 : 0xff;
	ZydisDecodedInstruction i;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&g->decoder, bytes, sizeof(bytes), &i, operands)) ||
	    !comparable(&i, operands))
		return 0;
	/* Vendors differ in what the operand size does to a branch. */
	if (i.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE && i.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE)
		return 0;
	/* Relative branches go forward, into the INT3s. */
	if (i.raw.imm[0].is_relative) {
		if (i.raw.imm[0].size == 8)
			bytes[i.raw.imm[0].offset] = (uint8_t)(0x60 + below(g, 31));
		else if (i.raw.imm[0].size == 32)
			memcpy(bytes + i.raw.imm[0].offset, &(uint32_t){0x100 + below(g, 0x800)}, 4);
		else
			return 0; /* 16-bit branches: vendors differ */
	}
	memcpy(to, bytes, i.length);
	return i.length;
}

static uint64_t random_value(struct generate *g)
{
	switch (below(g, 8)) {
	case 0:
		return below(g, 256);
	case 1:
		return generate_random(g);
	case 2:
		return 1ull << below(g, 64);
	case 3:
		return (uint64_t)-1 - below(g, 4);
	case 4:
		return (uint32_t)generate_random(g);
	default: /* into the data, with its borders likely */
		switch (below(g, 4)) {
		case 0:
			return CASE_DATA + CASE_DATA_SIZE - below(g, 64);
		case 1:
			return CASE_DATA + 0x1000 * below(g, 4) + (below(g, 2) ? 0x1000 - below(g, 40) : below(g, 64));
		default:
			return (CASE_DATA + below(g, CASE_DATA_SIZE)) & (below(g, 2) ? ~15ull : ~0ull);
		}
	}
}

static void random_fpu(struct generate *g, uint8_t fx[512])
{
	memset(fx, 0, 512);
	static const uint16_t precision[] = {0x37f, 0x27f, 0x07f, 0x77f, 0xb7f, 0xf7f};
	uint16_t control = precision[below(g, 6)], status = (uint16_t)(below(g, 8) << 11);
	memcpy(fx, &control, 2);
	memcpy(fx + 2, &status, 2);
	fx[4] = (uint8_t)generate_random(g); /* abridged tags */
	uint32_t mxcsr = 0x1f80 | below(g, 4) << 13 | (below(g, 8) ? 0 : 0x8000) | (below(g, 8) ? 0 : 0x40);
	if (!below(g, 8))
		mxcsr &= ~(1u << (7 + below(g, 6)));
	/* AMD's misaligned operands, where the host has them: page crossings and slow mode are C's to allow. */
	mxcsr |= below(g, 4) ? 0 : ft_mxcsr_host() & FT_MXCSR_MM;
	memcpy(fx + 24, &mxcsr, 4);
	for (unsigned r = 0; r < 8; r++) {
		uint8_t *st = fx + 32 + 16 * r;
		uint64_t mantissa = generate_random(g);
		uint16_t exponent = (uint16_t)(below(g, 4) ? 0x3fff - 20 + below(g, 40) : generate_random(g));
		if (below(g, 8))
			mantissa |= 1ull << 63;
		memcpy(st, &mantissa, 8);
		memcpy(st + 8, &exponent, 2);
	}
	for (unsigned r = 0; r < 16; r++)
		for (unsigned k = 0; k < 16; k += 8) {
			uint64_t v = generate_random(g);
			double d = (double)(int64_t)v / (double)(1ull << below(g, 63));
			float f = (float)d;
			switch (below(g, 4)) {
			case 0:
				memcpy(&v, &d, 8);
				break;
			case 1:
				memcpy(&v, &f, 4);
				break;
			case 2:
				v = random_value(g);
				break;
			default:
				break;
			}
			memcpy(fx + 160 + 16 * r + k, &v, 8);
		}
}

unsigned generate_case(struct generate *g, struct user_case *c, unsigned most)
{
	unsigned wanted = 1 + below(g, most), length = 0;
	/* Sometimes end exactly at, or straddle, the page boundary. */
	unsigned start = below(g, 16) ? below(g, 64) : 0x1000 - below(g, 24);
	memset(c->code, 0xcc, sizeof(c->code));
	for (unsigned k = 0; k < wanted;) {
		unsigned n = put_instruction(g, c->code + start + length);
		length += n;
		k += n != 0;
	}
	if (!below(g, 64) || c->data[0] == c->data[1]) {
		for (unsigned k = 0; k < CASE_DATA_SIZE; k += 8)
			memcpy(c->data + k, &(uint64_t){below(g, 4) ? generate_random(g) : random_value(g)}, 8);
		for (unsigned k = 0; k < CASE_CONST_SIZE; k += 8)
			memcpy(c->constant + k, &(uint64_t){generate_random(g)}, 8);
	}
	for (unsigned r = 0; r < 16; r++)
		c->start.gpr[r] = random_value(g);
	if (below(g, 4)) /* counts of strings and shifts */
		c->start.gpr[1] = below(g, 100);
	if (below(g, 8)) /* the stack usually works */
		c->start.gpr[4] = CASE_DATA + 0x800 + (below(g, 0x3000) & (below(g, 4) ? ~7u : ~0u));
	c->start.rip = CASE_CODE + start;
	c->start.flags = 0x202 | (generate_random(g) & 0x8d5) | (below(g, 8) ? 0 : 0x400);
	random_fpu(g, c->start.fx);
	return length;
}

void generate_show(struct generate *g, const struct user_case *c, unsigned length)
{
	ZydisFormatter formatter;
	ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
	uint64_t start = c->start.rip - CASE_CODE;
	for (unsigned at = 0; at < length;) {
		ZydisDecodedInstruction i;
		ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&g->decoder, c->code + start + at, 15, &i, operands)))
			break;
		char text[128];
		ZydisFormatterFormatInstruction(&formatter, &i, operands, i.operand_count_visible, text, sizeof(text),
						c->start.rip + at, NULL);
		fprintf(stderr, "  %llx:", (unsigned long long)(c->start.rip + at));
		for (unsigned k = 0; k < i.length; k++)
			fprintf(stderr, " %02x", c->code[start + at + k]);
		fprintf(stderr, "\t%s\n", text);
		at += i.length;
	}
}
