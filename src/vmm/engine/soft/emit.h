/* Host instructions, byte by byte: exactly those that block.h lists, and guest instructions rebuilt from their parts.
 * Nothing here knows about guests. Intel SDM Vol. 2, chapter 2. */
#ifndef FT_VMM_ENGINE_SOFT_EMIT_H
#define FT_VMM_ENGINE_SOFT_EMIT_H

#include <stddef.h>
#include <stdint.h>

#include "vmm/engine/soft/cpu.h"

enum emit_register {
	R_RAX,
	R_RCX,
	R_RDX,
	R_RBX,
	R_RSP,
	R_RBP,
	R_RSI,
	R_RDI,
	R_R8,
	R_R9,
	R_R10,
	R_R11,
	R_R12,
	R_R13,
	R_R14,
	R_R15,
	R_NONE = -1
};

/* A memory operand: base + index << scale + displacement. */
struct emit_memory {
	int8_t base, index;
	uint8_t scale;
	int32_t displacement;
};

struct emit {
	uint8_t *at;
};

static inline void emit_8(struct emit *e, uint8_t value)
{
	*e->at++ = value;
}

static inline void emit_16(struct emit *e, uint16_t value)
{
	__builtin_memcpy(e->at, &value, 2);
	e->at += 2;
}

static inline void emit_32(struct emit *e, uint32_t value)
{
	__builtin_memcpy(e->at, &value, 4);
	e->at += 4;
}

static inline void emit_64(struct emit *e, uint64_t value)
{
	__builtin_memcpy(e->at, &value, 8);
	e->at += 8;
}

static inline struct emit_memory emit_at(int8_t base, int32_t displacement)
{
	return (struct emit_memory){base, R_NONE, 0, displacement};
}

/* A field of struct soft_cpu. */
#define SLOT(field) emit_at(R_RSP, (int32_t)offsetof(struct soft_cpu, field) - SOFT_HOT)
#define SLOT_GPR(number)                                                                                     \
	emit_at(R_RSP, (int32_t)(offsetof(struct soft_cpu, gpr) + 8 * (size_t)(number)) - SOFT_HOT)

static inline uint8_t emit_rex(int w, unsigned reg, const struct emit_memory *m)
{
	unsigned x = m->index >= 0 ? (unsigned)m->index >> 3 : 0,
		 b = m->base >= 0 ? (unsigned)m->base >> 3 : 0;
	return (uint8_t)(0x40 | (w ? 8 : 0) | (reg >> 3) << 2 | x << 1 | b);
}

/* ModRM, SIB and displacement of a memory operand. */
static inline void emit_operand(struct emit *e, unsigned reg, const struct emit_memory *m)
{
	unsigned field = (reg & 7) << 3, base = (unsigned)m->base & 7;
	bool sib = m->index >= 0 || m->base < 0 || base == 4;
	if (m->base < 0) { /* disp32, with or without index */
		emit_8(e, (uint8_t)(field | 4));
		emit_8(e, (uint8_t)((unsigned)m->scale << 6 |
				    (m->index >= 0 ? ((unsigned)m->index & 7) << 3 : 0x20) | 5));
		emit_32(e, (uint32_t)m->displacement);
		return;
	}
	bool byte = m->displacement == (int8_t)m->displacement;
	unsigned mod = m->displacement == 0 && base != 5 ? 0 : byte ? 0x40 : 0x80;
	emit_8(e, (uint8_t)(mod | field | (sib ? 4 : base)));
	if (sib)
		emit_8(e, (uint8_t)((unsigned)m->scale << 6 |
				    (m->index >= 0 ? ((unsigned)m->index & 7) << 3 : 0x20) | base));
	if (mod == 0x40)
		emit_8(e, (uint8_t)m->displacement);
	else if (mod == 0x80)
		emit_32(e, (uint32_t)m->displacement);
}

static inline void emit_op64(struct emit *e, uint8_t opcode, unsigned reg, struct emit_memory m)
{
	emit_8(e, emit_rex(1, reg, &m));
	emit_8(e, opcode);
	emit_operand(e, reg, &m);
}

static inline void emit_load(struct emit *e, unsigned reg, struct emit_memory m)
{
	emit_op64(e, 0x8b, reg, m);
}

static inline void emit_store(struct emit *e, struct emit_memory m, unsigned reg)
{
	emit_op64(e, 0x89, reg, m);
}

static inline void emit_lea(struct emit *e, unsigned reg, struct emit_memory m)
{
	emit_op64(e, 0x8d, reg, m);
}

/* 32-bit result, zero-extended. */
static inline void emit_lea32(struct emit *e, unsigned reg, struct emit_memory m)
{
	uint8_t rex = emit_rex(0, reg, &m);
	if (rex != 0x40)
		emit_8(e, rex);
	emit_8(e, 0x8d);
	emit_operand(e, reg, &m);
}

static inline void emit_mov(struct emit *e, unsigned to, unsigned from)
{
	emit_8(e, (uint8_t)(0x48 | (from >> 3) << 2 | to >> 3));
	emit_8(e, 0x89);
	emit_8(e, (uint8_t)(0xc0 | (from & 7) << 3 | (to & 7)));
}

static inline void emit_mov32(struct emit *e, unsigned to, unsigned from)
{
	emit_8(e, (uint8_t)(0x40 | (from >> 3) << 2 | to >> 3));
	emit_8(e, 0x89);
	emit_8(e, (uint8_t)(0xc0 | (from & 7) << 3 | (to & 7)));
}

static inline void emit_mov_immediate(struct emit *e, unsigned to, uint64_t value)
{
	if (value <= UINT32_MAX) {
		if (to >= 8)
			emit_8(e, 0x41);
		emit_8(e, (uint8_t)(0xb8 | (to & 7)));
		emit_32(e, (uint32_t)value);
	} else if (value == (uint64_t)(int64_t)(int32_t)value) {
		emit_8(e, (uint8_t)(0x48 | to >> 3));
		emit_8(e, 0xc7);
		emit_8(e, (uint8_t)(0xc0 | (to & 7)));
		emit_32(e, (uint32_t)value);
	} else {
		emit_8(e, (uint8_t)(0x48 | to >> 3));
		emit_8(e, (uint8_t)(0xb8 | (to & 7)));
		emit_64(e, value);
	}
}

static inline void emit_mov_ecx(struct emit *e, uint32_t value)
{
	emit_8(e, 0xb9);
	emit_32(e, value);
}

/* VEX.LZ, three-byte form. map: 2 = 0F38, 3 = 0F3A. pp: 2 = F3, 3 = F2. */
static inline void emit_vex(struct emit *e, unsigned map, unsigned pp, uint8_t opcode, unsigned reg,
			    unsigned vvvv, unsigned x, unsigned b)
{
	emit_8(e, 0xc4);
	emit_8(e, (uint8_t)((reg >> 3 ? 0 : 0x80) | (x >> 3 ? 0 : 0x40) | (b >> 3 ? 0 : 0x20) | map));
	emit_8(e, (uint8_t)(0x80 | (~vvvv & 15) << 3 | pp));
	emit_8(e, opcode);
}

static inline void emit_vex_memory(struct emit *e, unsigned map, unsigned pp, uint8_t opcode, unsigned reg,
				   unsigned vvvv, struct emit_memory m)
{
	emit_vex(e, map, pp, opcode, reg, vvvv, m.index >= 0 ? (unsigned)m.index : 0,
		 m.base >= 0 ? (unsigned)m.base : 0);
	emit_operand(e, reg, &m);
}

static inline void emit_pext(struct emit *e, unsigned to, unsigned from, struct emit_memory mask)
{
	emit_vex_memory(e, 2, 2, 0xf5, to, from, mask);
}

static inline void emit_sarx(struct emit *e, unsigned to, struct emit_memory from, unsigned count)
{
	emit_vex_memory(e, 2, 2, 0xf7, to, count, from);
}

static inline void emit_shrx(struct emit *e, unsigned to, unsigned from, unsigned count)
{
	emit_vex(e, 2, 3, 0xf7, to, count, 0, from);
	emit_8(e, (uint8_t)(0xc0 | (to & 7) << 3 | (from & 7)));
}

static inline void emit_rorx(struct emit *e, unsigned to, unsigned from, uint8_t count)
{
	emit_vex(e, 3, 3, 0xf0, to, 0, 0, from);
	emit_8(e, (uint8_t)(0xc0 | (to & 7) << 3 | (from & 7)));
	emit_8(e, count);
}

/* Jumps. The 32-bit ones return where their displacement is; emit_patch points it at `to`. */
static inline uint8_t *emit_jump(struct emit *e)
{
	emit_8(e, 0xe9);
	emit_32(e, 0);
	return e->at - 4;
}

static inline uint8_t *emit_jump_if(struct emit *e, unsigned condition)
{
	emit_8(e, 0x0f);
	emit_8(e, (uint8_t)(0x80 | condition));
	emit_32(e, 0);
	return e->at - 4;
}

static inline void emit_patch(uint8_t *site, const uint8_t *to)
{
	int32_t distance = (int32_t)(to - (site + 4));
	__builtin_memcpy(site, &distance, 4);
}

static inline void emit_jump_to(struct emit *e, const uint8_t *to)
{
	emit_patch(emit_jump(e), to);
}

static inline void emit_call_to(struct emit *e, const uint8_t *to)
{
	emit_8(e, 0xe8);
	emit_32(e, 0);
	emit_patch(e->at - 4, to);
}

/* JRCXZ over what comes next; emit_land ends the stretch. */
static inline uint8_t *emit_jrcxz(struct emit *e)
{
	emit_8(e, 0xe3);
	emit_8(e, 0);
	return e->at - 1;
}

static inline void emit_land(const struct emit *e, uint8_t *site)
{
	*site = (uint8_t)(e->at - (site + 1));
}

#endif
