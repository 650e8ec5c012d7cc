/* Addresses and checks: every guest access of translated code is made by what is here. */
#include "vmm/engine/soft/translate.h"

static bool native(int8_t r)
{
	return r != R_RSP && r != R_RCX && r != R_R15;
}

/* A guest register as part of an address: itself, or loaded into `scratch`. */
static int8_t address_part(struct work *w, int8_t r, int8_t scratch, int32_t added)
{
	if (r == R_NONE || native(r))
		return r;
	emit_load(&w->e, (unsigned)scratch, SLOT_GPR(r));
	if (r == R_RSP && added)
		emit_lea(&w->e, (unsigned)scratch, emit_at(scratch, added));
	return scratch;
}

void soft_emit_segment(struct work *w, int8_t segment)
{
	if (segment < 0)
		return;
	emit_load(&w->e, R_RCX, segment == FT_FS ? SLOT(segment[FT_FS].base) : SLOT(segment[FT_GS].base));
	emit_lea(&w->e, R_R15, (struct emit_memory){R_RCX, R_R15, 0, 0});
}

void soft_emit_address(struct work *w, const struct guest_memory *m, int32_t added)
{
	struct emit *e = &w->e;
	if (m->base == R_NONE && m->index == R_NONE) {
		emit_mov_immediate(e, R_R15,
				   m->address32 ? (uint32_t)m->displacement : (uint64_t)m->displacement);
	} else {
		int8_t base = address_part(w, m->base, R_R15, added);
		int8_t index = address_part(w, m->index, R_RCX, 0);
		struct emit_memory ea = {base, index, m->scale, (int32_t)m->displacement};
		if (m->address32)
			emit_lea32(e, R_R15, ea);
		else if (base != R_R15 || index != R_NONE || ea.displacement)
			emit_lea(e, R_R15, ea);
	}
	soft_emit_segment(w, m->segment);
}

static struct stub *add_stub(struct work *w, enum stub_kind kind, uint8_t *site, uint32_t info)
{
	struct stub *s = &w->stub[w->stubs++];
	*s = (struct stub){.kind = (uint8_t)kind, .insn = (uint8_t)w->index, .site = site, .info = info};
	return s;
}

static uint32_t info_of(const struct work *w, unsigned size, uint32_t info)
{
	return size | info | w->index << SOFT_INFO_INSN_SHIFT;
}

/* The entry of a TLB array whose index is in `index`. */
static struct emit_memory entry_of(const struct work *w, const void *array, int8_t index)
{
	const uint8_t *hot = (const uint8_t *)w->cpu + SOFT_HOT;
	return (struct emit_memory){R_RSP, index, 3, (int32_t)((const uint8_t *)array - hot)};
}

static const uint64_t *tags(const struct work *w, uint32_t info)
{
	const struct soft_tlb *tlb = w->cpu->tlb[w->user];
	return info & SOFT_INFO_WRITE ? tlb->wtag : tlb->rtag;
}

struct emit_memory soft_emit_check(struct work *w, unsigned size, uint32_t info)
{
	struct emit *e = &w->e;
	struct emit_memory access = {R_RCX, R_R15, 0, 0};
	if (w->slow) {
		emit_mov_ecx(e, info_of(w, size, info));
		emit_call_to(e, w->blocks->code + w->blocks->thunk[SOFT_THUNK_SLOW]);
		return access;
	}
	emit_pext(e, R_RCX, R_R15, SLOT(tlb_mask));
	emit_load(e, R_RCX, entry_of(w, tags(w, info), R_RCX));
	emit_lea(e, R_RCX, (struct emit_memory){R_RCX, R_R15, 0, (int32_t)size - 1});
	emit_shrx(e, R_RCX, R_RCX, R_RSP);
	uint8_t *hit = emit_jrcxz(e);
	struct stub *stub = add_stub(w, STUB_MEMORY, emit_jump(e), info_of(w, size, info));
	emit_land(e, hit);
	emit_pext(e, R_RCX, R_R15, SLOT(tlb_mask));
	emit_load(e, R_RCX, entry_of(w, w->cpu->tlb[w->user]->add, R_RCX));
	stub->back = e->at;
	return access;
}

struct emit_memory soft_emit_access(struct work *w, const struct guest_memory *m, unsigned size,
				    uint32_t info, int32_t added)
{
	struct emit *e = &w->e;
	int64_t last = m->displacement + size - 1;
	bool simple = !w->slow && m->base != R_NONE && native(m->base) && m->index == R_NONE &&
		      m->segment < 0 && !m->address32 && last == (int32_t)last;
	if (!simple) {
		soft_emit_address(w, m, added);
		return soft_emit_check(w, size, info);
	}
	struct emit_memory ea = emit_at(m->base, (int32_t)m->displacement);
	if (ea.displacement) {
		emit_lea(e, R_R15, ea);
		emit_pext(e, R_R15, R_R15, SLOT(tlb_mask));
	} else {
		emit_pext(e, R_R15, (unsigned)m->base, SLOT(tlb_mask));
	}
	emit_load(e, R_RCX, entry_of(w, tags(w, info), R_R15));
	emit_lea(e, R_RCX, (struct emit_memory){R_RCX, m->base, 0, (int32_t)last});
	emit_shrx(e, R_RCX, R_RCX, R_RSP);
	uint8_t *hit = emit_jrcxz(e);
	struct stub *stub = add_stub(w, STUB_MEMORY_SIMPLE, emit_jump(e), info_of(w, size, info));
	emit_land(e, hit);
	emit_load(e, R_R15, entry_of(w, w->cpu->tlb[w->user]->add, R_R15));
	stub->ea = ea;
	stub->back = e->at;
	return (struct emit_memory){m->base, R_R15, 0, ea.displacement};
}

void soft_emit_commit(struct work *w, unsigned size)
{
	if (!w->slow)
		return;
	emit_mov_ecx(&w->e, info_of(w, size, SOFT_INFO_WRITE));
	emit_call_to(&w->e, w->blocks->code + w->blocks->thunk[SOFT_THUNK_COMMIT]);
}
