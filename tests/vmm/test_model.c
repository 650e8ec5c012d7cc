/* CPU models: what CPUID and the MSRs say of each, to the guest itself, and where a guest of one may go on. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "bare.h"
#include "vmm/engine/kvm/host.h"
#include "vmm/engine/kvm/kvm.h"

#define ALONE ((struct ft_model_place){0, 1})
#define KHZ   2600000u

/* A host's of before all mitigations in hardware; one of later; and two of AMD's. */
static const struct ft_model software = FT_MODEL_SOFTWARE_IS,
			     haswell = {.vendor = FT_MODEL_INTEL, .signature = 0x000306c3, .leaf7_edx = 1u << 10 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 31},
			     later = {.vendor = FT_MODEL_INTEL,
				      .signature = 0x000806f8,
				      .leaf7_edx = 1u << 10 | 1u << 26 | 1u << 27 | 1u << 29 | 1u << 31,
				      .leaf7_2_edx = 0x3f,
				      .arch_capabilities = 1u << 0 | 1u << 1 | 1u << 5},
			     zen = {.vendor = FT_MODEL_AMD, .signature = 0x00800f12, .ext8_ebx = 1u << 12},
			     zen3 = {.vendor = FT_MODEL_AMD,
				     .signature = 0x00a20f10,
				     .ext8_ebx = 1u << 12 | 1u << 14 | 1u << 15 | 1u << 24 | 1u << 28,
				     .ext21_eax = 1u << 2 | 1u << 6 | 1u << 27,
				     .ext21_ecx = 1u << 1};

struct line {
	uint32_t leaf, sub, r[4];
};

static void expect(const struct ft_model *model, struct ft_model_place place, const struct line *line)
{
	uint32_t r[4];
	ft_model_cpuid(model, place, KHZ, line->leaf, line->sub, r);
	for (unsigned i = 0; i < 4; i++)
		if (r[i] != line->r[i])
			fail_msg("leaf 0x%x.%u: register %u is %08x, not %08x", line->leaf, line->sub, i, r[i], line->r[i]);
}

/* Guests that began on engine soft have seen this, and their states and journals are good for as long as it stays. */
static void software_cpu(void **state)
{
	static const struct line lines[] = {
	    {0x0, 0, {0x00000016, 0x756e6547, 0x6c65746e, 0x49656e69}},
	    {0x1, 0, {0x00030661, 0x00010800, 0x81982201, 0x078ba37d}},
	    {0x2, 0, {0x00feff01, 0x00000000, 0x00000000, 0x00000000}},
	    {0x4, 0, {0x00000121, 0x01c0003f, 0x0000003f, 0x00000000}},
	    {0x4, 1, {0x00000122, 0x01c0003f, 0x0000003f, 0x00000000}},
	    {0x4, 2, {0x00000143, 0x01c0003f, 0x000003ff, 0x00000000}},
	    {0x6, 0, {0x00000004, 0x00000000, 0x00000000, 0x00000000}},
	    {0x7, 0, {0x00000000, 0x00000282, 0x00000004, 0x20000010}},
	    {0x15, 0, {0x00000005, 0x0000000d, 0x3b9aca00, 0x00000000}},
	    {0x16, 0, {0x00000a28, 0x00000a28, 0x00000064, 0x00000000}},
	    {0x40000000, 0, {0x40000000, 0x65726f46, 0x74736174, 0x004d5665}},
	    {0x80000000, 0, {0x80000008, 0x756e6547, 0x6c65746e, 0x49656e69}},
	    {0x80000001, 0, {0x00000000, 0x00000000, 0x00000001, 0x2c100800}},
	    {0x80000002, 0, {0x65726f46, 0x74736174, 0x6f732065, 0x61777466}},
	    {0x80000003, 0, {0x43206572, 0x00005550, 0x00000000, 0x00000000}},
	    {0x80000006, 0, {0x00000000, 0x00000000, 0x02006040, 0x00000000}},
	    {0x80000007, 0, {0x00000000, 0x00000000, 0x00000000, 0x00000100}},
	    {0x80000008, 0, {0x00003028, 0x00000000, 0x00000000, 0x00000000}},
	};
	unsigned at = 0;
	for (uint32_t leaf = 0; leaf <= 0x80000021; leaf = leaf == 0x18 ? 0x40000000 : leaf == 0x40000000 ? 0x80000000 : leaf + 1)
		for (uint32_t sub = 0; sub < 4; sub++) {
			const struct line none = {.leaf = leaf, .sub = sub};
			bool beyond = (leaf > 0x16 && leaf < 0x40000000) || leaf > 0x80000008;
			bool told = !beyond && at < sizeof(lines) / sizeof(*lines) && lines[at].leaf == leaf && lines[at].sub == sub;
			if (told)
				expect(&software, ALONE, &lines[at]);
			else if (beyond)
				expect(&software, ALONE, &(struct line){leaf, sub, {0xa28, 0xa28, 100}});
			else if (leaf == 4 || leaf == 7 || sub == 0)
				expect(&software, ALONE, &none);
			at += told;
		}
	assert_int_equal(at, sizeof(lines) / sizeof(*lines));
	uint64_t value;
	assert_true(ft_model_msr(&software, 0x10a, &value));
	assert_int_equal(value, 0x400000000d00e179);
	assert_int_equal(ft_model_spec_ctrl(&software) | ft_model_pred_cmd(&software) | ft_model_flush_cmd(&software), 0);
	/* Each of the others is one of those that may be. */
	const struct ft_model *const all[] = {&software, &haswell, &later, &zen, &zen3};
	for (unsigned i = 0; i < 5; i++) {
		struct ft_model model = *all[i];
		assert_true(ft_model_known(&model));
		assert_true(ft_model_same(&model, all[i]));
	}
}

static void others(void **state)
{
	static const struct line is_haswell[] = {{0, 0, {0x16, 0x756e6547, 0x6c65746e, 0x49656e69}},
						 {1, 0, {0x000306c3, 0x00010800, 0x81982201, 0x078ba37d}},
						 {7, 0, {0, 0x282, 4, 0x9c000410}},
						 {0x80000000, 0, {0x80000008, 0x756e6547, 0x6c65746e, 0x49656e69}},
						 {0x80000008, 0, {0x3028}}},
				is_later[] = {{7, 0, {2, 0x282, 4, 0xac000410}}, {7, 1, {0}}, {7, 2, {0, 0, 0, 0x3f}}, {7, 3, {0}}},
				is_zen3[] = {{0, 0, {0x16, 0x68747541, 0x444d4163, 0x69746e65}},
					     {1, 0, {0x00a20f10, 0x00010800, 0x81982201, 0x078ba37d}},
					     {4, 0, {0}},
					     {7, 0, {0, 0x282, 4, 0x10}},
					     {0x17, 0, {0}},
					     {0x80000000, 0, {0x80000021, 0x68747541, 0x444d4163, 0x69746e65}},
					     {0x80000001, 0, {0, 0, 1, 0x2c100800}},
					     {0x80000008, 0, {0x3028, 0x1100d000}},
					     {0x80000021, 0, {0x08000044, 0, 2, 0}},
					     {0x80000022, 0, {0}}},
				of_four[] = {{0x80000001, 0, {0, 0, 3, 0x2c100800}}, {0x80000008, 0, {0x3028, 0x1100d000, 0x2003}}};
#define ALL(model, place, lines)                                                                             \
	for (unsigned i = 0; i < sizeof(lines) / sizeof(*(lines)); i++)                                       \
	expect(&(model), place, &(lines)[i])
	ALL(haswell, ALONE, is_haswell);
	ALL(later, ALONE, is_later);
	ALL(zen3, ALONE, is_zen3);
	ALL(zen3, ((struct ft_model_place){2, 4}), of_four);
}

/* ---- MSRs, as the guest finds them ------------------------------------------------------------------------------------- */

#define KERNEL 0xffff800000000000ull
#define CODE   0x40000u
#define HALTS  0x13000u

/* Ring 0 runs RDMSR or WRMSR: false is #GP(0). */
static bool access_msr(struct ft_machine *m, bool write, uint32_t index, uint64_t *value)
{
	const uint8_t code[] = {0x0f, write ? 0x30 : 0x32, 0xf4};
	struct ft_error err = {0};
	struct ft_cpu_state s;
	m->engine_ops->get(m->engine, &s);
	s.rip = KERNEL + CODE;
	s.rflags = 2;
	s.halted = 0;
	s.gdt = (struct ft_table){KERNEL + 0x10000, 0x4f};
	s.idt = (struct ft_table){KERNEL + 0x11000, 0xfff};
	s.tr = (struct ft_segment){.base = KERNEL + 0x12000, .limit = 0x67, .selector = 0x40, .attributes = 0x8b};
	s.cr0 = 0x80050033;
	s.cr3 = 0x1000;
	s.cr4 = 0x6a0;
	s.efer = 0xd01;
	s.gpr[FT_RCX] = index;
	s.gpr[FT_RAX] = (uint32_t)*value;
	s.gpr[FT_RDX] = *value >> 32;
	s.gpr[FT_RSP] = KERNEL + 0x1f000;
	for (unsigned i = 0; i < FT_SEGMENTS; i++)
		s.segment[i] = (struct ft_segment){.limit = 0xffffffff, .selector = 0x18, .attributes = 0xc093};
	s.segment[FT_CS] = (struct ft_segment){.limit = 0xffffffff, .selector = 0x10, .attributes = 0xa09b};
	assert_true(ft_memory_write(&m->ram, ft_gpa_make(CODE), code, sizeof(code)));
	assert_int_equal(m->engine_ops->set(m->engine, &s, &err), 0);
	struct ft_run_limits limits = {.icount = m->icount + 20, .vtime_ns = UINT64_MAX};
	ft_machine_run(m, &limits, NULL);
	m->engine_ops->get(m->engine, &s);
	assert_true(s.halted);
	if (s.rip == KERNEL + HALTS + 13 * 16 + 1)
		return false;
	assert_int_equal(s.rip, KERNEL + CODE + 3);
	if (!write)
		*value = (uint32_t)s.gpr[FT_RAX] | s.gpr[FT_RDX] << 32;
	return true;
}

static void reads(struct ft_machine *m, uint32_t index, uint64_t expected)
{
	uint64_t value = 0;
	if (!access_msr(m, false, index, &value))
		fail_msg("MSR 0x%x cannot be read", index);
	assert_int_equal(value, expected);
}

static void has_not(struct ft_machine *m, uint32_t index)
{
	uint64_t value = 0;
	assert_false(access_msr(m, false, index, &value));
	assert_false(access_msr(m, true, index, &value));
}

static bool writes(struct ft_machine *m, uint32_t index, uint64_t value)
{
	return access_msr(m, true, index, &value);
}

static void msrs(void **state)
{
	static const struct ft_engine_options options = {.verify = true, .cache_bytes = 1 << 20};
	struct ft_error err = {0};
	struct ft_machine *m = bare_open(&options, &err);
	assert_non_null(m);
	assert_true(ft_model_same(&m->model, &software));
	has_not(m, 0x48);
	has_not(m, 0x49);
	has_not(m, 0x10b);
	has_not(m, 0xc0010015);
	reads(m, 0x10a, software.arch_capabilities);
	assert_false(writes(m, 0x10a, software.arch_capabilities));
	reads(m, 0x3a, 1);
	assert_true(writes(m, 0x176, 0xffffffff81e00000));
	reads(m, 0x176, 0xffffffff81e00000);

	m->model = haswell;
	reads(m, 0x48, 0);
	assert_true(writes(m, 0x48, 7));
	reads(m, 0x48, 7);
	assert_false(writes(m, 0x48, 1u << 3)); /* IPRED_DIS_U */
	assert_false(writes(m, 0x48, 1ull << 32));
	reads(m, 0x48, 7);
	assert_true(writes(m, 0x49, 1) && writes(m, 0x49, 0));
	assert_false(writes(m, 0x49, 2) || writes(m, 0x49, 0x80) || writes(m, 0x49, 1ull << 40));
	assert_true(writes(m, 0x10b, 1));
	assert_false(writes(m, 0x10b, 2));
	uint64_t value = 0;
	assert_false(access_msr(m, false, 0x49, &value) || access_msr(m, false, 0x10b, &value));
	has_not(m, 0x10a);

	m->model = later;
	reads(m, 0x10a, later.arch_capabilities);
	assert_true(writes(m, 0x48, 0x5ff));
	assert_false(writes(m, 0x48, 1u << 9));
	assert_false(writes(m, 0x10b, 1));

	m->model = zen;
	has_not(m, 0x48);
	has_not(m, 0x10a);
	has_not(m, 0x3a);
	assert_true(writes(m, 0x49, 1));
	assert_false(writes(m, 0x49, 0x80));
	reads(m, 0xc0010015, 1u << 24);
	assert_true(writes(m, 0xc0010015, 1u << 24));
	assert_false(writes(m, 0xc0010015, 0));
	reads(m, 0xc001001f, 0);
	assert_true(writes(m, 0xc001001f, 1ull << 46));
	reads(m, 0xc001001f, 0);
	reads(m, 0xc0011029, 2);
	assert_true(writes(m, 0x176, 0xffffffff81e00000)); /* of which an AMD keeps 32 bits */
	reads(m, 0x176, 0x81e00000);

	m->model = zen3;
	assert_true(writes(m, 0x48, 0x87));
	assert_false(writes(m, 0x48, 1u << 10));
	assert_true(writes(m, 0x49, 0x81));
	bare_close(m);
}

/* ---- Hosts --------------------------------------------------------------------------------------------------------------- */

struct leaves {
	struct kvm_cpuid2 header;
	struct kvm_cpuid_entry2 entries[16];
};

/* A host on which all bits are set: nothing is told that nobody knows, and nothing of the other vendor's. */
static void of_host(void **state)
{
	static const uint32_t vendors[][3] = {FT_MODEL_INTEL, FT_MODEL_AMD, FT_MODEL_HYGON, {0x746e6543, 0x736c7561, 0x48727561}};
	for (unsigned i = 0; i < 4; i++) {
		struct leaves host = {.header.nent = 6};
		struct ft_model model;
		const uint32_t leaf[6][2] = {{0}, {1}, {7}, {7, 2}, {0x80000008}, {0x80000021}};
		for (unsigned n = 0; n < 6; n++)
			host.entries[n] = (struct kvm_cpuid_entry2){leaf[n][0], leaf[n][1], 0, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX};
		host.entries[0].ebx = vendors[i][0];
		host.entries[0].ecx = vendors[i][1];
		host.entries[0].edx = vendors[i][2];
		ft_kvm_host_model_read(&host.header, &model);
		model.arch_capabilities = UINT64_MAX;
		assert_int_equal(ft_model_known(&model), i < 3);
		assert_memory_equal(model.vendor, vendors[i], sizeof(model.vendor));
		assert_int_equal(model.signature, 0x0fff3fff);
		bool amd = i == 1 || i == 2;
		assert_int_equal(model.leaf7_edx, amd ? 0 : 0xbc000400);
		assert_int_equal(model.leaf7_2_edx, amd ? 0 : 0x3f);
		assert_int_equal(model.ext8_ebx, amd ? 0x750fd000 : 0);
		assert_int_equal(model.ext21_eax, amd ? 0x78000064 : 0);
		assert_int_equal(model.ext21_ecx, amd ? 6 : 0);
		assert_int_equal(model.arch_capabilities, amd ? 0 : 0x400000001d1ae17full);
	}
	/* Without the leaf that announces it there is no such register. */
	struct ft_model model = haswell;
	model.arch_capabilities = 1;
	assert_true(ft_model_known(&model));
	assert_int_equal(model.arch_capabilities, 0);
}

static void fits(void **state)
{
	const struct {
		const struct ft_model *guest, *host;
		const char *refused, *note;
	} cases[] = {
	    {&haswell, &haswell, NULL, ""},
	    {&zen3, &zen3, NULL, ""},
	    {&software, &haswell, NULL, "does not protect itself"},
	    {&software, &zen3, NULL, "does not protect itself"},
	    {&software, &(const struct ft_model){.signature = 0}, NULL, "does not protect itself"},
	    {&haswell, &zen3, "the guest's vendor", NULL},
	    {&haswell, &(const struct ft_model){.signature = 0}, "the guest's vendor", NULL},
	    {&haswell, &later, "L1D_FLUSH", NULL},
	    {&later, &haswell, "ARCH_CAPABILITIES", NULL},
	    {&zen, &zen3, NULL, "another processor of this vendor"},
	    {&zen3, &zen, "IBRS", NULL},
	};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct ft_error err = {0};
		char note[256];
		int error = ft_kvm_model_fits(cases[i].host, cases[i].guest, note, sizeof(note), &err);
		assert_int_equal(error, cases[i].refused ? -ENOTSUP : 0);
		if (!strstr(error ? err.text : note, error ? cases[i].refused : cases[i].note) || (!error && !*cases[i].note && *note))
			fail_msg("case %u: %s%s", i, err.text, note);
	}
	/* Each bit that makes the guest feel safe, or use something, or that a host admits, decides by itself. */
	struct ft_model all = later, less;
	all.arch_capabilities = 0x400000001d12e17bull; /* but RSBA and RRSBA */
	struct ft_error err = {0};
	char note[256];
	for (unsigned bit = 0; bit < 64; bit++) {
		less = all;
		less.arch_capabilities &= ~(1ull << bit);
		assert_int_equal(ft_kvm_model_fits(&less, &all, note, sizeof(note), &err), all.arch_capabilities >> bit & 1 ? -ENOTSUP : 0);
		assert_int_equal(ft_kvm_model_fits(&all, &less, note, sizeof(note), &err), 0);
	}
	for (unsigned bit = 2; bit < 20; bit += 17) {
		less = all;
		less.arch_capabilities |= 1ull << bit;
		assert_int_equal(ft_kvm_model_fits(&less, &all, note, sizeof(note), &err), -ENOTSUP);
		assert_int_equal(ft_kvm_model_fits(&all, &less, note, sizeof(note), &err), 0);
	}
}

/* A machine is not made of what no state could have. */
static void impossible(void **state)
{
	struct ft_error err = {0};
	struct ft_model model = haswell;
	struct ft_machine_config config = {
	    .memory = FT_RAM_MIN, .clock = FT_CLOCK_FREE, .mac = {0x52}, .disk_fd = -1, .engine = &ft_engine_soft, .model = &model};
	struct ft_machine *m = ft_machine_create(&config, &err);
	assert_non_null(m);
	assert_true(ft_model_same(&m->model, &haswell));
	ft_machine_destroy(m);
	model.ext8_ebx = 1u << 12;
	assert_null(ft_machine_create(&config, &err));
	model = haswell;
	model.vendor[0]++;
	assert_null(ft_machine_create(&config, &err));
}

static void words(void **state)
{
	static const struct ft_model silent = {.vendor = FT_MODEL_AMD, .signature = 0x00800f12},
				     weak = {.vendor = FT_MODEL_INTEL, .leaf7_edx = 1u << 29, .arch_capabilities = 1u << 19 | 1u << 4},
				     partly = {.vendor = FT_MODEL_INTEL, .leaf7_edx = 1u << 29, .arch_capabilities = 1u << 13 | 1u << 15},
				     whole = {.vendor = FT_MODEL_INTEL, .leaf7_edx = 1u << 29, .arch_capabilities = 7u << 13};
	static const struct {
		const struct ft_model *model;
		const char *words;
	} cases[] = {
	    {&software, "does not speculate, so that the guest's kernel does not protect itself from its own programs"},
	    {&haswell, "says of no attack by speculation that it is safe from it; against the rest it has MD_CLEAR, IBRS and IBPB (SPEC_CTRL), STIBP, "
		       "L1D_FLUSH, SSBD"},
	    {&later, "says that it is safe from MCDT, Meltdown, L1TF, MDS; against the rest it has MD_CLEAR, IBRS and IBPB (SPEC_CTRL), STIBP, SSBD, PSFD, "
		     "IPRED_CTRL, RRSBA_CTRL, DDPD_U, BHI_CTRL, IBRS_ALL"},
	    {&zen, "says of no attack by speculation that it is safe from it; against the rest it has IBPB"},
	    /* What no operator has to know is not told: selectors that clear their base. */
	    {&zen3, "says of no attack by speculation that it is safe from it; against the rest it has IBPB, IBRS, STIBP, SSBD, PSFD, LFENCE that is always "
		    "serializing, SBPB"},
	    {&silent, "says of no attack by speculation that it is safe from it; it has no means against the rest"},
	    {&weak, "says that it is safe from Speculative Store Bypass; it has no means against the rest; it admits RRSBA"},
	    /* One attack that three bits speak of. */
	    {&partly, "says of no attack by speculation that it is safe from it; it has no means against the rest"},
	    {&whole, "says that it is safe from MMIO stale data; it has no means against the rest"},
	};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		char text[FT_MODEL_WORDS];
		ft_model_words(cases[i].model, text);
		assert_string_equal(text, cases[i].words);
	}
	/* All that there may be has room. */
	struct ft_model all = {.vendor = FT_MODEL_INTEL, .leaf7_edx = UINT32_MAX, .leaf7_2_edx = UINT32_MAX, .arch_capabilities = UINT64_MAX};
	char text[FT_MODEL_WORDS];
	ft_model_words(&all, text);
	assert_non_null(strstr(text, "it admits RSBA, RRSBA"));
	assert_true(strlen(text) < sizeof(text) / 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(software_cpu), cmocka_unit_test(others), cmocka_unit_test(msrs),
	    cmocka_unit_test(of_host),      cmocka_unit_test(fits),   cmocka_unit_test(impossible),
	    cmocka_unit_test(words),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
