/* The `soft` engine towards the machine: making and unmaking it, and its state in and out. */
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "vmm/engine/model.h"
#include "vmm/engine/mxcsr.h"
#include "vmm/engine/soft/run.h"
#include "vmm/engine/soft/system.h"
#include "vmm/engine/walk.h"

#define GUARD      (64u << 10)
#define HUGE       (2u << 20)
#define TLB_LEAST  2u
#define TLB_BITS   10u
#define CODE_MOST  (1u << 30)

/* ---- Memory ---------------------------------------------------------------------------------------------------- */

static uint64_t up(uint64_t value, uint64_t unit)
{
	return (value + unit - 1) / unit * unit;
}

/* Takes `size` bytes at the cursor, and a guard behind. */
static uint8_t *carve(uint8_t **cursor, uint64_t size, int protection)
{
	uint8_t *at = *cursor;
	size = up(size, FT_PAGE_SIZE);
	*cursor += size + GUARD;
	return mprotect(at, size, protection) ? NULL : at;
}

/* How much of everything a code cache of `code` bytes needs; measured averages, with room to spare: when one runs out,
 * all is flushed. */
static struct soft_room room_for(uint32_t code)
{
	return (struct soft_room){code, code / 256, code / 40 + SOFT_BLOCK_MOST, code / 128 + 8 * SOFT_BLOCK_MOST,
				  code / 512 + 2 * SOFT_BLOCK_MOST};
}

static void plan(struct soft_blocks *b, uint32_t code)
{
	struct soft_room own = room_for(code), young = room_for(SOFT_YOUNG_CODE);
	b->most[0] = own;
	b->most[1] = (struct soft_room){(uint32_t)up(own.code, HUGE) + young.code, own.block + young.block, own.place + young.place,
					own.link + young.link, own.record + young.record};
	b->hash_mask = 1;
	while (b->hash_mask < own.block)
		b->hash_mask = b->hash_mask << 1 | 1;
}

static uint64_t tables_size(const struct soft_blocks *b)
{
	const struct soft_room *most = &b->most[1];
	return up((uint64_t)most->block * sizeof(*b->block), 64) + up((uint64_t)most->place * sizeof(*b->place), 64) +
	       up((uint64_t)most->link * sizeof(*b->link), 64) + up((uint64_t)most->record * sizeof(*b->record), 64) + HUGE +
	       up(((uint64_t)b->hash_mask + 1) * 4, 64) + HUGE + up(b->pages * 4, 64) + up((b->pages + 7) / 8, 64);
}

static void *take(uint8_t **cursor, uint64_t size)
{
	uint8_t *at = *cursor;
	*cursor += up(size, 64);
	return at;
}

static void lay_tables(struct soft_blocks *b, uint8_t *at)
{
	const struct soft_room *most = &b->most[1];
	b->block = take(&at, (uint64_t)most->block * sizeof(*b->block));
	b->place = take(&at, (uint64_t)most->place * sizeof(*b->place));
	b->link = take(&at, (uint64_t)most->link * sizeof(*b->link));
	b->record = take(&at, (uint64_t)most->record * sizeof(*b->record));
	/* What clones write does not lie in a huge page with what they only read. */
	at = (uint8_t *)(uintptr_t)up((uint64_t)(uintptr_t)at, HUGE);
	b->hash = take(&at, ((uint64_t)b->hash_mask + 1) * 4);
	at = (uint8_t *)(uintptr_t)up((uint64_t)(uintptr_t)at, HUGE);
	b->page = take(&at, b->pages * 4);
	b->told = take(&at, (b->pages + 7) / 8);
}

/* Everything is private anonymous memory, so that fork() copies it: guard, code on a huge page's boundary, guard, tables, guard. */
static int map(struct ft_engine *engine)
{
	struct soft_blocks *b = engine->blocks;
	/* Whole huge pages: what is left over would be hundreds of small ones for each fork to copy. */
	uint64_t tables = up(tables_size(b), HUGE);
	b->map_size = 2ull * HUGE + b->most[1].code + GUARD + HUGE + tables + GUARD;
	b->map = mmap(NULL, b->map_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (b->map == MAP_FAILED) {
		b->map = NULL;
		return -errno;
	}
	uint8_t *at = b->map + GUARD;
	at = (uint8_t *)(uintptr_t)up((uint64_t)(uintptr_t)at, HUGE);
	b->code = carve(&at, b->most[1].code, PROT_READ | PROT_WRITE | PROT_EXEC);
	at = (uint8_t *)(uintptr_t)up((uint64_t)(uintptr_t)at, HUGE);
	uint8_t *rest = carve(&at, tables, PROT_READ | PROT_WRITE);
	if (!b->code || !rest)
		return -errno;
	madvise(b->code, b->most[1].code, MADV_HUGEPAGE);
	madvise(rest, tables, MADV_HUGEPAGE);
	lay_tables(b, rest);
	return 0;
}

/* ---- Making ------------------------------------------------------------------------------------------------------ */

static bool host_has_bmi2(void)
{
	unsigned a, b, c, d;
	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_BMI2);
}

static bool host_is_intel(void)
{
	unsigned a, b, c, d;
	return __get_cpuid(0, &a, &b, &c, &d) && b == signature_INTEL_ebx && c == signature_INTEL_ecx &&
	       d == signature_INTEL_edx;
}

/* hidden.c. SDM Vol. 2A, CPUID. */
static uint32_t host_features(bool intel)
{
	unsigned a, b, c, d;
	uint32_t has = ft_mxcsr_host() & FT_MXCSR_MM && !intel ? SOFT_HOST_MISALIGN : 0;
	if (__get_cpuid(1, &a, &b, &c, &d) && (c & bit_RDRND) && !intel)
		has |= SOFT_HOST_RDRAND;
	if (__get_cpuid(0x80000001, &a, &b, &c, &d) && !intel)
		has |= (c & 1u << 12 ? SOFT_HOST_SKINIT : 0) | (c & 1u << 4 ? SOFT_HOST_LOCK_CR0 : 0);
	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
		return has;
	return has | (b & bit_RDSEED && !intel ? SOFT_HOST_RDSEED : 0) | (b & 1u << 20 ? SOFT_HOST_SMAP : 0) |
	       (b & bit_CLFLUSHOPT ? SOFT_HOST_CLFLUSHOPT : 0) | (b & bit_CLWB ? SOFT_HOST_CLWB : 0);
}

static void code_written(void *engine, uint64_t page)
{
	soft_block_drop_page(((struct ft_engine *)engine)->cpu, page);
}

static void moved(void *engine, uint64_t page)
{
	soft_tlb_follow(((struct ft_engine *)engine)->cpu, page);
}

/* Who begins to observe has all grants dropped first (soft_block_observe): until then disk reads need not pay for it. */
static void user_filled(void *engine, uint64_t page)
{
	struct soft_cpu *cpu = ((struct ft_engine *)engine)->cpu;
	if (cpu->m->hooks.mask & FT_HOOK_EXEC_PAGE)
		soft_tlb_protect(cpu, page * FT_PAGE_SIZE);
}

static void reset(struct ft_engine *engine, const struct ft_engine_options *options)
{
	struct soft_cpu *cpu = engine->cpu;
	struct soft_blocks *b = engine->blocks;
	uint32_t bits = options->tlb_bits ? options->tlb_bits : TLB_BITS;
	cpu->tlb_bits = bits < TLB_LEAST ? TLB_LEAST : bits > SOFT_TLB_BITS_MAX ? SOFT_TLB_BITS_MAX : bits;
	cpu->tlb_mask = ((1ull << cpu->tlb_bits) - 1) << 12;
	cpu->jump_mask[SOFT_JUMPS_KERNEL] = SOFT_JUMP_SETS - 1;
	cpu->jump_mask[SOFT_JUMPS_USER] = SOFT_JUMP_SETS_USER - 1;
	cpu->bit_mask[0] = 15;
	cpu->bit_mask[1] = 31;
	cpu->bit_mask[2] = 63;
	cpu->canonical_mask[0] = 0xffff800000000000;
	cpu->canonical_mask[1] = 0x1fffe;
	cpu->flags = FLAG_ONE;
	cpu->shadow_icount = cpu->quiet_icount = UINT64_MAX;
	cpu->always_slow = options->always_slow;
	cpu->intel = host_is_intel();
	cpu->host = host_features(cpu->intel);
	cpu->pat = SOFT_PAT_RESET;
	cpu->misc_enable = FT_MISC_ENABLE_RESET;
	cpu->fx[0] = 0x7f; /* FCW 0x37f, MXCSR 0x1f80 */
	cpu->fx[1] = 0x03;
	cpu->fx[24] = 0x80;
	cpu->fx[25] = 0x1f;
	b->block_limit = options->block_limit ? options->block_limit : SOFT_BLOCK_LIMIT;
	if (b->block_limit > SOFT_BLOCK_MOST)
		b->block_limit = SOFT_BLOCK_MOST;
	b->verify = options->verify;
	memset(b->page, 0xff, b->pages * 4);
	soft_thunks_make(cpu);
	b->once = b->once_home = (uint32_t)up(b->thunk_end, 64);
	b->code_first = b->once + SOFT_BLOCK_ROOM;
	soft_tlb_flush(cpu, false);
	soft_block_flush(cpu);
}

static void destroy(struct ft_engine *engine)
{
	if (!engine)
		return;
	struct ft_memory *ram = &engine->cpu->m->ram;
	ram->code_written = ram->moved = ram->user_filled = NULL;
	if (engine->blocks->map)
		munmap(engine->blocks->map, engine->blocks->map_size);
	soft_hot_unmap(engine->hot);
	soft_hot_unmap(engine->next);
	soft_hot_unmap(engine->last);
	free(engine);
}

static struct ft_engine *create(struct ft_machine *m, const struct ft_engine_options *options,
				struct ft_error *err)
{
	if (m->vcpus > 1) {
		ft_error_set(err, -EINVAL, "engine soft has one processor, not %u: what it does is exact only while one thread touches the machine",
			     m->vcpus);
		return NULL;
	}
	if (!host_has_bmi2()) {
		ft_error_set(err, -ENOTSUP,
			     "this processor lacks BMI2 (PEXT, SHRX), which the software engine needs");
		return NULL;
	}
	struct ft_engine *engine = calloc(1, sizeof(*engine));
	uint64_t code = options->cache_bytes ? options->cache_bytes : SOFT_CACHE_DEFAULT;
	code = code < SOFT_CACHE_LEAST ? SOFT_CACHE_LEAST : code > CODE_MOST ? CODE_MOST : code;
	struct soft_hot *hot = soft_hot_map();
	if (!engine || !hot) {
		ft_error_set(err, -ENOMEM, "no memory for the software engine");
		soft_hot_unmap(hot);
		free(engine);
		return NULL;
	}
	soft_hot_settle(engine, hot);
	engine->cpu->m = m;
	engine->blocks->pages = m->ram.size / FT_PAGE_SIZE;
	plan(engine->blocks, (uint32_t)up(code, FT_PAGE_SIZE));
	int error = map(engine);
	if (error) {
		ft_error_set(err, error, "no memory for the software engine's code cache of %llu bytes: %s",
			     (unsigned long long)code, strerror(-error));
		destroy(engine);
		return NULL;
	}
	reset(engine, options);
	m->ram.code_written = code_written;
	m->ram.moved = moved;
	m->ram.user_filled = user_filled;
	m->ram.engine = engine;
	error = soft_signals_install();
	if (error) {
		ft_error_set(err, error, "cannot handle the processor's exceptions: %s", strerror(-error));
		destroy(engine);
		return NULL;
	}
	return engine;
}

/* Of MXCSR, that this host has; and of those that the guest has, whose model is settled when it runs. */
static uint32_t host_mxcsr(const struct soft_cpu *cpu)
{
	return FT_MXCSR_EVERYWHERE | (cpu->host & SOFT_HOST_MISALIGN ? FT_MXCSR_MM : 0);
}

/* ---- Running ----------------------------------------------------------------------------------------------------- */

static enum ft_exit run(struct ft_engine *engine, uint64_t until)
{
	struct soft_cpu *cpu = engine->cpu;
	uint32_t mxcsr;
	uint16_t control;
	int error = soft_signals_enter(cpu);
	if (error) {
		ft_error_set(&cpu->m->error, error, "no alternate stack for signals: %s", strerror(-error));
		return FT_EXIT_ERROR;
	}
	cpu->icount = cpu->m->icount;
	cpu->mxcsr_bits = host_mxcsr(cpu) & ft_mxcsr_model(&cpu->m->model);
	__asm__ volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr), "=m"(control));
	__asm__ volatile("fxrstor64 %0"
			 :
			 : "m"(cpu->fx)
			 : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
			   "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
	enum ft_exit result = soft_run(cpu, until);
	__asm__ volatile("fxsave64 %0; fninit; fldcw %2; ldmxcsr %1"
			 : "=m"(cpu->fx)
			 : "m"(mxcsr), "m"(control)
			 : "memory");
	cpu->m->icount = cpu->icount;
	soft_signals_leave();
	return result;
}

static void stop(struct ft_engine *engine)
{
	engine->cpu->stop = 1;
}

/* ---- State ------------------------------------------------------------------------------------------------------- */

static void get(struct ft_engine *engine, struct ft_cpu_state *s)
{
	const struct soft_cpu *cpu = engine->cpu;
	memset(s, 0, sizeof(*s));
	memcpy(s->gpr, cpu->gpr, sizeof(s->gpr));
	s->rip = cpu->rip;
	s->rflags = cpu->flags;
	memcpy(s->segment, cpu->segment, sizeof(s->segment));
	s->ldt = cpu->ldt;
	s->tr = cpu->tr;
	s->gdt.base = cpu->gdt.base;
	s->gdt.limit = cpu->gdt.limit;
	s->idt.base = cpu->idt.base;
	s->idt.limit = cpu->idt.limit;
	s->cr0 = cpu->cr0;
	s->cr2 = cpu->cr2;
	s->cr3 = cpu->cr3;
	s->cr4 = cpu->cr4;
	s->efer = cpu->efer;
	memcpy(s->dr, cpu->dr, sizeof(s->dr));
	s->star = cpu->star;
	s->lstar = cpu->lstar;
	s->cstar = cpu->cstar;
	s->fmask = cpu->fmask;
	s->kernel_gs_base = cpu->kernel_gs_base;
	s->tsc_aux = cpu->tsc_aux;
	s->sysenter_cs = cpu->sysenter_cs;
	s->sysenter_esp = cpu->sysenter_esp;
	s->sysenter_eip = cpu->sysenter_eip;
	s->pat = cpu->pat;
	s->misc_enable = cpu->misc_enable;
	s->spec_ctrl = cpu->spec_ctrl;
	/* Last x87 opcode and pointers are the host's, and so is MXCSR_MASK. */
	const uint32_t mask = FT_MXCSR_EVERYWHERE;
	memcpy(s->fxsave, cpu->fx, 416);
	memset(s->fxsave + 6, 0, 18);
	memcpy(s->fxsave + 28, &mask, sizeof(mask));
	s->interrupt_shadow = cpu->shadow_icount == cpu->icount;
	s->nmi_masked = cpu->nmi_masked;
	s->nmi_pending = cpu->m->nmi;
	s->halted = cpu->halted;
	s->exception_pending = cpu->fault.pending;
	if (cpu->fault.pending) {
		s->exception_vector = cpu->fault.vector;
		s->exception_has_error = cpu->fault.has_error;
		s->exception_error = cpu->fault.error;
		s->exception_address = cpu->fault.address;
	}
	s->icount = cpu->icount;
}

static int set(struct ft_engine *engine, const struct ft_cpu_state *s, struct ft_error *err)
{
	struct soft_cpu *cpu = engine->cpu;
	uint32_t mxcsr;
	memcpy(&mxcsr, s->fxsave + 24, 4);
	if (mxcsr & FT_MXCSR_MM & ~host_mxcsr(cpu))
		return ft_error_set(err, -ENOTSUP, "MXCSR 0x%x: this host's processor lacks misaligned SSE mode (MM)", mxcsr);
	if (mxcsr & ~host_mxcsr(cpu))
		return ft_error_set(err, -EINVAL, "MXCSR 0x%x has reserved bits set", mxcsr);
	if (s->misc_enable & ~(uint64_t)SOFT_MISC_ENABLE_WRITABLE)
		return ft_error_set(err, -EINVAL, "IA32_MISC_ENABLE %llx has bits that this processor lacks",
				    (unsigned long long)s->misc_enable);
	if ((s->cr0 & CR0_PG) && !(s->efer & EFER_LMA))
		return ft_error_set(err, -ENOTSUP, "paging without long mode");
	memcpy(cpu->gpr, s->gpr, sizeof(cpu->gpr));
	cpu->rip = s->rip;
	cpu->flags = s->rflags | FLAG_ONE;
	memcpy(cpu->segment, s->segment, sizeof(cpu->segment));
	cpu->ldt = s->ldt;
	cpu->tr = s->tr;
	cpu->gdt = s->gdt;
	cpu->idt = s->idt;
	cpu->cr0 = s->cr0;
	cpu->cr2 = s->cr2;
	cpu->cr3 = s->cr3;
	cpu->cr4 = s->cr4;
	cpu->efer = s->efer;
	memcpy(cpu->dr, s->dr, sizeof(cpu->dr));
	cpu->star = s->star;
	cpu->lstar = s->lstar;
	cpu->cstar = s->cstar;
	cpu->fmask = s->fmask;
	cpu->kernel_gs_base = s->kernel_gs_base;
	cpu->tsc_aux = s->tsc_aux;
	cpu->sysenter_cs = s->sysenter_cs;
	cpu->sysenter_esp = s->sysenter_esp;
	cpu->sysenter_eip = s->sysenter_eip;
	cpu->pat = s->pat;
	cpu->misc_enable = s->misc_enable;
	cpu->spec_ctrl = s->spec_ctrl;
	memcpy(cpu->fx, s->fxsave, sizeof(cpu->fx));
	memset(cpu->fx + 6, 0, 18);
	/* A conforming segment runs at the privilege that it was called from: the selector's RPL (SDM 5.8.1). */
	const struct ft_segment *cs = &s->segment[FT_CS];
	bool conforming = (cs->attributes & (SEG_CODE | SEG_CONFORMING)) == (SEG_CODE | SEG_CONFORMING);
	cpu->cpl = (uint8_t)(conforming ? cs->selector & 3u : SEG_DPL(cs->attributes));
	cpu->code64 = (s->efer & EFER_LMA) && (s->segment[FT_CS].attributes & SEG_LONG);
	cpu->shadow_icount = s->interrupt_shadow ? s->icount : UINT64_MAX;
	cpu->nmi_masked = s->nmi_masked;
	cpu->m->nmi = s->nmi_pending;
	cpu->halted = s->halted;
	cpu->fault.pending = s->exception_pending;
	cpu->fault.vector = s->exception_vector;
	cpu->fault.has_error = s->exception_has_error;
	cpu->fault.error = s->exception_error;
	cpu->fault.address = s->exception_address;
	cpu->icount = s->icount;
	cpu->m->icount = s->icount;
	soft_tlb_flush(cpu, false);
	return 0;
}

static void cpuid(struct ft_engine *engine, const struct ft_model *model, unsigned vcpu, uint64_t tsc_khz, uint32_t leaf, uint32_t subleaf,
		  uint32_t registers[4])
{
	(void)engine;
	ft_model_cpuid(model, (struct ft_model_place){vcpu, 1}, (uint32_t)tsc_khz, leaf, subleaf, registers);
}

_Static_assert(CR4_KNOWN == FT_MODEL_CR4 && SOFT_PHYSICAL_BITS == FT_MODEL_PHYSICAL_BITS, "the model is the same on every engine");

static int model_msr(struct ft_engine *engine, const struct ft_model *model, uint32_t index, uint64_t *value)
{
	return ft_model_msr(model, index, value) ? 0 : -1;
}

/* ---- For observers ------------------------------------------------------------------------------------------------- */

static size_t peek_in(struct ft_engine *engine, uint64_t cr3, uint64_t va, void *to, size_t length)
{
	return ft_walk_read(&engine->cpu->m->ram, cr3, va, true, to, length);
}

static void observe(struct ft_engine *engine)
{
	soft_block_observe(engine->cpu);
}

static void part(struct ft_engine *engine)
{
	/* The parent's, which a fork does not have, and what it has of where the parent's was. */
	engine->next = NULL;
	soft_hot_move(engine);
	ft_memory_part(&engine->cpu->m->ram);
	soft_block_part(engine->cpu);
}

static void before_fork(struct ft_engine *engine)
{
	soft_tlb_share_granted(engine->cpu);
}

static void share(struct ft_engine *engine)
{
	soft_hot_move(engine);
	ft_memory_part(&engine->cpu->m->ram);
}

static void flush(struct ft_engine *engine)
{
	soft_tlb_flush(engine->cpu, false);
	soft_block_flush(engine->cpu);
}

const struct ft_engine_ops ft_engine_soft = {
    .name = "soft",
    .create = create,
    .destroy = destroy,
    .run = run,
    .stop = stop,
    .get = get,
    .set = set,
    .cpuid = cpuid,
    .model_msr = model_msr,
    .cr4_known = CR4_KNOWN,
    .peek_in = peek_in,
    .observe = observe,
    .part = part,
    .before_fork = before_fork,
    .share = share,
    .rest = soft_hot_rest,
    .flush = flush,
};
