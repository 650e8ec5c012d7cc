#include "bare.h"

#include <errno.h>
#include <string.h>

/* Guest physical memory. The first 2 MiB are mapped at KERNEL, for the supervisor only. */
#define KERNEL     0xffff800000000000ull
#define PML4       0x1000u
#define PDPT_LOW   0x2000u
#define PDPT_HIGH  0x3000u
#define PD_LOW     0x4000u
#define PD_HIGH    0x5000u
#define PT_CODE    0x6000u
#define PT_DATA    0x7000u
#define GDT        0x10000u
#define IDT        0x11000u
#define TSS        0x12000u
#define HALTS      0x13000u /* one HLT every 16 bytes, one a vector */
#define STACK_TOP  0x20000u
#define PAGES_CODE 0x200000u
#define PAGES_DATA 0x210000u /* CASE_DATA, then CASE_CONST */

#define P  1ull
#define W  2ull
#define U  4ull
#define PS 0x80ull
#define G  0x100ull
#define NX (1ull << 63)

static bool put64(struct ft_machine *m, uint64_t at, uint64_t value)
{
	return ft_memory_write(&m->ram, ft_gpa_make(at), &value, sizeof(value));
}

static bool build_tables(struct ft_machine *m)
{
	bool ok = put64(m, PML4, PDPT_LOW | P | W | U) && put64(m, PML4 + 256 * 8, PDPT_HIGH | P | W) &&
		  put64(m, PDPT_LOW, PD_LOW | P | W | U) && put64(m, PDPT_HIGH, PD_HIGH | P | W) &&
		  put64(m, PD_HIGH, 0 | P | W | PS | G) &&
		  put64(m, PD_LOW + (CASE_CODE >> 21) * 8, PT_CODE | P | W | U) &&
		  put64(m, PD_LOW + (CASE_DATA >> 21) * 8, PT_DATA | P | W | U);
	for (unsigned i = 0; i < CASE_CODE_SIZE / 4096; i++)
		ok = ok && put64(m, PT_CODE + i * 8, (PAGES_CODE + i * 4096) | P | U);
	unsigned data = CASE_DATA_SIZE / 4096;
	for (unsigned i = 0; i < data + CASE_CONST_SIZE / 4096; i++)
		ok = ok && put64(m, PT_DATA + i * 8, (PAGES_DATA + i * 4096) | P | (i < data ? W : 0) | U | NX);
	/* Selectors as Linux has them: 0x10 kernel code, 0x18 kernel data, 0x2b user data, 0x33 user code, 0x40 TSS. */
	static const uint64_t gdt[] = {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0, 0x00cff3000000ffff,
				       0x00affb000000ffff, 0};
	for (unsigned i = 0; i < sizeof(gdt) / sizeof(gdt[0]); i++)
		ok = ok && put64(m, GDT + i * 8, gdt[i]);
	uint64_t tss = KERNEL + TSS;
	ok = ok && put64(m, GDT + 0x40, 0x67 | (tss & 0xffffff) << 16 | 0x8bull << 40 | ((tss >> 24) & 0xff) << 56) &&
	     put64(m, GDT + 0x48, tss >> 32) && put64(m, TSS + 4, KERNEL + STACK_TOP);
	for (unsigned v = 0; v < 256; v++) {
		uint64_t at = KERNEL + HALTS + v * 16;
		uint64_t dpl = v == 3 || v == 4 ? 3 : 0;
		uint8_t hlt = 0xf4;
		ok = ok &&
		     put64(m, IDT + v * 16,
			   (at & 0xffff) | 0x10ull << 16 | (0x8eull | dpl << 5) << 40 | ((at >> 16) & 0xffff) << 48) &&
		     put64(m, IDT + v * 16 + 8, at >> 32) &&
		     ft_memory_write(&m->ram, ft_gpa_make(HALTS + v * 16), &hlt, 1);
	}
	return ok;
}

struct ft_machine *bare_open(const struct ft_engine_options *options, struct ft_error *err)
{
	struct ft_machine_config config = {.memory = FT_RAM_MIN,
					   .clock = FT_CLOCK_FREE,
					   .disk_fd = -1,
					   .mac = {0x52, 0x54, 0, 0, 2, 15},
					   .engine = &ft_engine_soft,
					   .engine_options = *options};
	struct ft_machine *m = ft_machine_create(&config, err);
	if (m && !build_tables(m)) {
		ft_error_set(err, -EFAULT, "the bare machine's tables do not fit its memory");
		ft_machine_destroy(m);
		return NULL;
	}
	return m;
}

void bare_close(struct ft_machine *m)
{
	ft_machine_destroy(m);
}

static void start_state(const struct ft_machine *m, const struct user_state *s, struct ft_cpu_state *to)
{
	*to = (struct ft_cpu_state){
		.rip = s->rip,
		.rflags = s->flags,
		.gdt = {KERNEL + GDT, 0x4f},
		.idt = {KERNEL + IDT, 0xfff},
		.tr = {.base = KERNEL + TSS, .limit = 0x67, .selector = 0x40, .attributes = 0x8b},
		.cr0 = 0x80050033, /* PG AM WP NE ET MP PE */
		.cr3 = PML4,
		.cr4 = 0x6a0, /* PAE PGE OSFXSR OSXMMEXCPT */
		.efer = 0xd01,         /* NXE LMA LME SCE */
		.dr = {[6] = 0xffff0ff0, [7] = 0x400},
		.pat = 0x0007040600070406,
		.icount = m->icount,
	};
	struct ft_segment data = {.limit = 0xffffffff, .selector = CASE_SS, .attributes = 0xc0f3};
	to->segment[FT_CS] = (struct ft_segment){.limit = 0xffffffff, .selector = CASE_CS, .attributes = 0xa0fb};
	to->segment[FT_SS] = data;
	/* A Linux process has null selectors in the others. */
	data.selector = 0;
	data.attributes = 0;
	to->segment[FT_DS] = to->segment[FT_ES] = to->segment[FT_FS] = to->segment[FT_GS] = data;
	to->segment[FT_GS].base = CASE_GS_BASE;
	memcpy(to->gpr, s->gpr, sizeof(to->gpr));
	memcpy(to->fxsave, s->fx, sizeof(to->fxsave));
}

int bare_run(struct ft_machine *m, const struct user_case *c, uint64_t most, struct user_state *end, uint8_t *data,
	     enum ft_exit *exit)
{
	if (!ft_memory_write(&m->ram, ft_gpa_make(PAGES_CODE), c->code, CASE_CODE_SIZE) ||
	    !ft_memory_write(&m->ram, ft_gpa_make(PAGES_DATA), c->data, CASE_DATA_SIZE) ||
	    !ft_memory_write(&m->ram, ft_gpa_make(PAGES_DATA + CASE_DATA_SIZE), c->constant, CASE_CONST_SIZE))
		return -EFAULT;
	struct ft_cpu_state state;
	start_state(m, &c->start, &state);
	int error = m->engine_ops->set(m->engine, &state, &m->error);
	if (error)
		return error;
	*exit = m->engine_ops->run(m->engine, m->icount + most);
	if (*exit == FT_EXIT_COUNT)
		return -ETIME;
	if (*exit != FT_EXIT_HALT)
		return -EIO;
	m->engine_ops->get(m->engine, &state);
	uint64_t vector = (state.rip - 1 - KERNEL - HALTS) / 16, frame[6];
	bool has_error = vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
	uint64_t at = state.gpr[FT_RSP] - KERNEL;
	if (vector > 255 || at > STACK_TOP - 40 || !ft_memory_read(&m->ram, ft_gpa_make(at), frame, has_error ? 48 : 40))
		return -EIO;
	const uint64_t *f = frame + has_error;
	memcpy(end->gpr, state.gpr, sizeof(end->gpr));
	memcpy(end->fx, state.fxsave, sizeof(end->fx));
	end->rip = f[0];
	end->flags = f[2];
	end->gpr[FT_RSP] = f[3];
	end->vector = (unsigned)vector;
	end->error = has_error ? (uint32_t)frame[0] : 0;
	end->address = state.cr2;
	return ft_memory_read(&m->ram, ft_gpa_make(PAGES_DATA), data, CASE_DATA_SIZE) ? 0 : -EFAULT;
}
