/* AMD's misaligned SSE mode (MXCSR.MM), which KVM cannot hide: what a program may do with it, by APM Vol. 1 4.2.2 and 4.3.2 (and, of SHA, as seen
 * on a processor), under each setting of the engine, and where a machine's state with it may go. The differential test compares the same with the processor. */
#include <cpuid.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "bare.h"
#include "saved.h"
#include "vmm/engine/mxcsr.h"
#include "vmm/state/image.h"

#define AC   0x40000u
#define MM   FT_MXCSR_MM
#define NONE 3u /* INT3 behind the code */
#define GP   13u
#define PF   14u
#define ALIGNMENT 17u
#define DEFAULT 0x1f80u

#define AT(offset) (CASE_DATA + (offset))
#define CODE(...)  .code = {__VA_ARGS__}, .length = sizeof((const uint8_t[]){__VA_ARGS__})

static struct ft_machine *machine(const struct ft_engine_options *options, const struct ft_model *model)
{
	struct ft_error err = {0};
	struct ft_machine *m = bare_open(options, &err);
	if (!m)
		fail_msg("%s", err.text);
	m->model = *model;
	return m;
}

static void begin(struct user_case *c, const uint8_t *code, size_t length, uint64_t rsi, uint32_t mxcsr, uint64_t flags)
{
	memset(c, 0, sizeof(*c));
	memset(c->code, 0xcc, sizeof(c->code));
	memcpy(c->code, code, length);
	for (size_t i = 0; i < CASE_DATA_SIZE; i++)
		c->data[i] = (uint8_t)(i * 7 + (i >> 8));
	c->start = (struct user_state){.rip = CASE_CODE, .flags = 0x202 | flags, .gpr = {[4] = AT(0x3000), [6] = rsi}};
	c->start.fx[0] = 0x7f;
	c->start.fx[1] = 0x03;
	memcpy(c->start.fx + 24, &mxcsr, sizeof(mxcsr));
}

static void end(struct ft_machine *m, const struct user_case *c, struct user_state *is, uint8_t *data)
{
	enum ft_exit exit;
	if (bare_run(m, c, 1000, is, data, &exit))
		fail_msg("exit %d: %s", exit, m->error.text);
}

/* ---- Operands ---- */

/* What comes of an operand at (%rsi): without MM, with it, and each once more with alignment checks. */
static const struct operand {
	const char *text;
	uint8_t code[8];
	size_t length;
	unsigned vector[4];
	bool sha; /* not each AMD has it */
} operands[] = {
    {"movaps load", CODE(0x0f, 0x28, 0x06), {GP, GP, GP, GP}},
    {"movaps store", CODE(0x0f, 0x29, 0x06), {GP, GP, GP, GP}},
    {"movapd load", CODE(0x66, 0x0f, 0x28, 0x06), {GP, GP, GP, GP}},
    {"movapd store", CODE(0x66, 0x0f, 0x29, 0x06), {GP, GP, GP, GP}},
    {"movdqa load", CODE(0x66, 0x0f, 0x6f, 0x06), {GP, GP, GP, GP}},
    {"movdqa store", CODE(0x66, 0x0f, 0x7f, 0x06), {GP, GP, GP, GP}},
    {"movntps", CODE(0x0f, 0x2b, 0x06), {GP, GP, GP, GP}},
    {"movntpd", CODE(0x66, 0x0f, 0x2b, 0x06), {GP, GP, GP, GP}},
    {"movntdq", CODE(0x66, 0x0f, 0xe7, 0x06), {GP, GP, GP, GP}},
    {"movntdqa", CODE(0x66, 0x0f, 0x38, 0x2a, 0x06), {GP, GP, GP, GP}},
    {"movups load", CODE(0x0f, 0x10, 0x06), {NONE, NONE, ALIGNMENT, ALIGNMENT}},
    {"movdqu store", CODE(0xf3, 0x0f, 0x7f, 0x06), {NONE, NONE, ALIGNMENT, ALIGNMENT}},
    {"addps", CODE(0x0f, 0x58, 0x06), {GP, NONE, GP, ALIGNMENT}},
    {"pand", CODE(0x66, 0x0f, 0xdb, 0x06), {GP, NONE, GP, ALIGNMENT}},
    {"pshufd", CODE(0x66, 0x0f, 0x70, 0x06, 0x1b), {GP, NONE, GP, ALIGNMENT}},
    {"movshdup", CODE(0xf3, 0x0f, 0x16, 0x06), {GP, NONE, GP, ALIGNMENT}},
    {"ptest", CODE(0x66, 0x0f, 0x38, 0x17, 0x06), {GP, NONE, GP, ALIGNMENT}},
    {"aesenc", CODE(0x66, 0x0f, 0x38, 0xdc, 0x06), {GP, NONE, GP, ALIGNMENT}},
    {"cvtpd2pi", CODE(0x66, 0x0f, 0x2d, 0x06), {GP, NONE, GP, ALIGNMENT}},
    {"sha1rnds4", CODE(0x0f, 0x3a, 0xcc, 0x06, 1), {NONE, NONE, ALIGNMENT, ALIGNMENT}, true},
    {"sha1nexte", CODE(0x0f, 0x38, 0xc8, 0x06), {NONE, NONE, ALIGNMENT, ALIGNMENT}, true},
    {"sha1msg1", CODE(0x0f, 0x38, 0xc9, 0x06), {NONE, NONE, ALIGNMENT, ALIGNMENT}, true},
    {"sha1msg2", CODE(0x0f, 0x38, 0xca, 0x06), {NONE, NONE, ALIGNMENT, ALIGNMENT}, true},
    {"sha256rnds2", CODE(0x0f, 0x38, 0xcb, 0x06), {NONE, NONE, ALIGNMENT, ALIGNMENT}, true},
    {"sha256msg1", CODE(0x0f, 0x38, 0xcc, 0x06), {NONE, NONE, ALIGNMENT, ALIGNMENT}, true},
    {"sha256msg2", CODE(0x0f, 0x38, 0xcd, 0x06), {NONE, NONE, ALIGNMENT, ALIGNMENT}, true},
    {"cmpxchg16b", CODE(0x48, 0x0f, 0xc7, 0x0e), {GP, GP, GP, GP}},
};

static bool host_has_sha(void)
{
	unsigned a, b, c, d;
	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA);
}

static const struct ft_engine_options settings[] = {{.verify = true}, {.verify = true, .always_slow = true}, {.verify = true, .tlb_bits = 2}};

/* In a page and across two; an operand that lies in no page comes behind the alignment. A load before: the page is known by then. */
static void operands_of_sixteen_bytes(void **state)
{
	static const struct {
		uint64_t offset;
		bool absent;
	} places[] = {{0x101, false}, {0x108, false}, {0xff8, false}, {CASE_DATA_SIZE + CASE_CONST_SIZE + 0x11, true}};
	static const uint8_t touch[] = {0x8a, 0x05, 0, 0, 0, 0x10}; /* mov al, [rip + 0x10000000] */
	static struct user_case c;
	static uint8_t data[CASE_DATA_SIZE];
	for (size_t s = 0; s < sizeof(settings) / sizeof(*settings); s++) {
		struct ft_machine *m = machine(&settings[s], &saved_amd);
		for (size_t i = 0; i < sizeof(operands) / sizeof(*operands); i++)
			for (unsigned k = 0; k < 8 * sizeof(places) / sizeof(*places); k++) {
				const struct operand *o = &operands[i];
				if (o->sha && !host_has_sha())
					continue;
				bool mm = k & 1, checks = k & 2, known = k & 4;
				uint8_t code[16];
				size_t before = known ? sizeof(touch) : 0;
				memcpy(code, touch, before);
				memcpy(code + before, o->code, o->length);
				struct user_state is;
				begin(&c, code, before + o->length, AT(places[k / 8].offset), DEFAULT | (mm ? MM : 0), checks ? AC : 0);
				end(m, &c, &is, data);
				unsigned vector = o->vector[k & 3];
				if (places[k / 8].absent && vector == NONE)
					vector = PF;
				if (is.vector != vector)
					fail_msg("%s at %llx, MM %d, AC %d, setting %zu: vector %u, not %u", o->text,
						 (unsigned long long)places[k / 8].offset, mm, checks, s, is.vector, vector);
			}
		bare_close(m);
	}
}

/* The bytes are those that lie there, across pages, too. */
static void what_is_read(void **state)
{
	static struct user_case c;
	static uint8_t data[CASE_DATA_SIZE];
	static const uint8_t por[] = {0x66, 0x0f, 0xeb, 0x06};
	for (size_t s = 0; s < sizeof(settings) / sizeof(*settings); s++) {
		struct ft_machine *m = machine(&settings[s], &saved_amd);
		for (unsigned at = 0xff1; at < 0x1004; at++) {
			struct user_state is;
			begin(&c, por, sizeof(por), AT(at), DEFAULT | MM, 0);
			end(m, &c, &is, data);
			assert_int_equal(is.vector, NONE);
			assert_memory_equal(is.fx + 160, c.data + at, 16);
		}
		bare_close(m);
	}
}

/* ---- The bit ---- */

/* LDMXCSR (%rsi), FXRSTOR 0x200(%rsi); then FXSAVE 0x400(%rsi). */
static unsigned load(const struct ft_model *model, bool image, uint32_t mxcsr, uint32_t saved[2])
{
	static const uint8_t ldmxcsr[] = {0x0f, 0xae, 0x16, 0x48, 0x0f, 0xae, 0x86, 0, 4, 0, 0};
	static const uint8_t fxrstor[] = {0x48, 0x0f, 0xae, 0x8e, 0, 2, 0, 0, 0x48, 0x0f, 0xae, 0x86, 0, 4, 0, 0};
	static struct user_case c;
	static uint8_t data[CASE_DATA_SIZE];
	struct user_state is;
	struct ft_machine *m = machine(&settings[0], model);
	begin(&c, image ? fxrstor : ldmxcsr, image ? sizeof(fxrstor) : sizeof(ldmxcsr), AT(0), DEFAULT, 0);
	memcpy(c.data, &mxcsr, 4);
	memset(c.data + 0x200, 0, 512);
	memcpy(c.data + 0x200 + 24, &mxcsr, 4);
	end(m, &c, &is, data);
	memcpy(saved, data + 0x400 + 24, 8);
	bare_close(m);
	return is.vector;
}

static void who_may_set_it(void **state)
{
	const struct ft_model software = FT_MODEL_SOFTWARE;
	const struct {
		const struct ft_model *model;
		bool may;
	} cases[] = {{&saved_amd, ft_mxcsr_host() & MM}, {&software, ft_mxcsr_host() & MM}, {&saved_intel, false}};
	for (unsigned i = 0; i < 6; i++) {
		bool may = cases[i / 2].may, image = i & 1;
		uint32_t saved[2];
		assert_int_equal(load(cases[i / 2].model, image, DEFAULT, saved), NONE);
		assert_int_equal(saved[0], DEFAULT);
		assert_int_equal(saved[1], may ? 0x2ffff : 0xffff);
		assert_int_equal(load(cases[i / 2].model, image, DEFAULT | MM, saved), may ? NONE : GP);
		if (may)
			assert_int_equal(saved[0], DEFAULT | MM);
		assert_int_equal(load(cases[i / 2].model, image, DEFAULT | 0x10000, saved), GP);
		assert_int_equal(load(cases[i / 2].model, image, DEFAULT | 0x40000, saved), GP);
	}
}

/* ---- The state ---- */

static struct ft_machine *started(const struct ft_model *model, uint32_t mxcsr, int expected)
{
	struct ft_machine *m = saved_machine(&ft_engine_soft);
	struct ft_error err = {0};
	struct ft_cpu_state cpu = saved_peculiar();
	m->model = *model;
	cpu.segment[FT_CS].attributes = 0xa0fb;
	memcpy(cpu.fxsave + 24, &mxcsr, 4);
	assert_int_equal(m->engine_ops->set(m->engine, &cpu, &err), expected);
	if (expected)
		assert_non_null(strstr(err.text, "MXCSR"));
	return m;
}

static void a_state_goes_on(void **state)
{
	struct ft_machine *a = started(&saved_amd, DEFAULT | MM, 0), *b = started(&FT_MODEL_SOFTWARE, DEFAULT, 0);
	struct saved first = saved_take(a);
	saved_restore(b, &first);
	struct ft_cpu_state cpu;
	b->engine_ops->get(b->engine, &cpu);
	uint32_t mxcsr[2];
	memcpy(mxcsr, cpu.fxsave + 24, 8);
	assert_int_equal(mxcsr[0], DEFAULT | MM);
	assert_int_equal(mxcsr[1], 0xffff); /* in a state always */
	struct saved second = saved_take(b);
	assert_int_equal(first.length, second.length);
	assert_memory_equal(first.at, second.at, first.length);
	free(first.at);
	free(second.at);
	ft_machine_destroy(a);
	ft_machine_destroy(b);
}

/* No guest of an Intel's can have set it. */
static void an_intels_state_is_refused(void **state)
{
	struct ft_machine *m = started(&saved_intel, DEFAULT | MM, 0);
	struct ft_error err = {0};
	uint8_t *at;
	size_t length;
	assert_int_equal(ft_state_save(m, &at, &length, &err), -EINVAL);
	assert_non_null(strstr(err.text, "xsave.mxcsr"));
	ft_machine_destroy(m);
}

/* A host without the mode: engine and state say what is missing. */
static void a_host_without_it_refuses(void **state)
{
	ft_machine_destroy(started(&saved_amd, DEFAULT | MM, -ENOTSUP));
	ft_machine_destroy(started(&saved_amd, DEFAULT | 0x40000, -EINVAL));
}

int main(void)
{
	const struct CMUnitTest with[] = {cmocka_unit_test(operands_of_sixteen_bytes), cmocka_unit_test(what_is_read), cmocka_unit_test(who_may_set_it),
					  cmocka_unit_test(a_state_goes_on), cmocka_unit_test(an_intels_state_is_refused)};
	const struct CMUnitTest without[] = {cmocka_unit_test(who_may_set_it), cmocka_unit_test(a_host_without_it_refuses)};
	return ft_mxcsr_host() & MM ? cmocka_run_group_tests_name("misaligned", with, NULL, NULL)
				    : cmocka_run_group_tests_name("misaligned, on a host without it", without, NULL, NULL);
}
