/* The engine against the processor: random ring-3 instructions and sequences must leave the same registers, flags,
 * x87/SSE state and memory, and end in the same exception, as when the processor runs them itself.
 *
 *   differential [--cases N] [--seed S] [--most INSTRUCTIONS] [--only CASE] [--times N]
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bare.h"
#include "generate.h"
#include "native.h"

/* Settings that must not matter; cases take turns. */
static const struct ft_engine_options settings[] = {
	{.verify = true},
	{.verify = true, .block_limit = 1},
	{.verify = true, .always_slow = true},
	{.verify = true, .tlb_bits = 2, .cache_bytes = 3 << 20},
};
#define SETTINGS (sizeof(settings) / sizeof(settings[0]))

static const char *const names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
				      "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

static bool report;

static bool differs(const char *what, uint64_t native, uint64_t engine)
{
	if (native == engine)
		return false;
	if (report)
		fprintf(stderr, "  %-8s processor %016llx engine %016llx\n", what, (unsigned long long)native,
			(unsigned long long)engine);
	return true;
}

/* RF is set in frames of faults by the processor; TF and what a kernel adds are not compared. */
#define FLAGS_COMPARED 0xcd5ull

static bool fpu_differs(const uint8_t *a, const uint8_t *b)
{
	bool d = memcmp(a, b, 5) != 0; /* control, status, tags */
	if (d && report)
		fprintf(stderr, "  x87      processor %02x%02x %02x%02x %02x engine %02x%02x %02x%02x %02x\n", a[1], a[0],
			a[3], a[2], a[4], b[1], b[0], b[3], b[2], b[4]);
	uint32_t ma, mb;
	memcpy(&ma, a + 24, 4);
	memcpy(&mb, b + 24, 4);
	d |= differs("mxcsr", ma, mb);
	for (unsigned r = 0; r < 24; r++) {
		unsigned size = r < 8 ? 10 : 16;
		const uint8_t *x = a + 32 + 16 * r, *y = b + 32 + 16 * r;
		if (!memcmp(x, y, size))
			continue;
		d = true;
		if (report) {
			uint64_t v[4] = {0};
			memcpy(v, x, size);
			memcpy(v + 2, y, size);
			fprintf(stderr, "  %s%u processor %016llx:%016llx engine %016llx:%016llx\n", r < 8 ? "st" : "xmm",
				r < 8 ? r : r - 8, (unsigned long long)v[1], (unsigned long long)v[0],
				(unsigned long long)v[3], (unsigned long long)v[2]);
		}
	}
	return d;
}

/* What an instruction that faulted leaves behind where processors go different ways and no program can rely on one: it
 * is run again, or its process dies. */
struct loose {
	bool arithmetic_flags; /* repeated CMPS, SCAS: those of before (SDM Vol. 2B, REP) or of the last comparison */
	bool address;          /* MASKMOV: of the first byte, or of the first one that is stored */
	bool order;            /* CMPS: which of its two operands is read first, when both fault; processors differ */
	bool below_stack;      /* CALL to nowhere: whether the return address has been stored already */
};

static struct loose loose_end(const struct user_case *c, const struct user_state *end)
{
	struct loose loose = {0};
	ZydisDecoder decoder;
	ZydisDecodedInstruction i;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	uint64_t at = end->rip - CASE_CODE;
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	if ((end->vector != 13 && end->vector != 14) || at >= CASE_CODE_SIZE ||
	    !ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, c->code + at, CASE_CODE_SIZE - at, &i, operands)))
		return loose;
	bool repeated = i.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);
	bool compares = i.meta.category == ZYDIS_CATEGORY_STRINGOP &&
			(i.opcode == 0xa6 || i.opcode == 0xa7 || i.opcode == 0xae || i.opcode == 0xaf);
	loose.arithmetic_flags = repeated && compares;
	loose.order = compares && (i.opcode == 0xa6 || i.opcode == 0xa7);
	loose.address = i.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ || i.mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU;
	loose.below_stack = i.meta.category == ZYDIS_CATEGORY_CALL && end->vector == 13;
	return loose;
}

#define FLAGS_ARITHMETIC 0x8d5ull

static bool states_differ(const struct user_state *n, const struct user_state *e, const struct loose *loose)
{
	uint64_t flags = loose->arithmetic_flags ? FLAGS_COMPARED & ~FLAGS_ARITHMETIC : FLAGS_COMPARED;
	bool any_fault = loose->order && (e->vector == 13 || e->vector == 14);
	bool d = (!any_fault && differs("vector", n->vector, e->vector)) | differs("rip", n->rip, e->rip) |
		 differs("flags", n->flags & flags, e->flags & flags);
	for (unsigned r = 0; r < 16; r++)
		d |= differs(names[r], n->gpr[r], e->gpr[r]);
	if (n->vector == 14 && e->vector == 14 && !any_fault) {
		/* Linux says "present" of every kernel address, whatever the tables say. */
		uint32_t mask = n->address >= 0x7ffffffff000 ? ~1u : ~0u;
		d |= differs("error", n->error & mask, e->error & mask);
		if (!loose->address || n->address - e->address >= 16)
			d |= differs("cr2", n->address, e->address);
	}
	return d | fpu_differs(n->fx, e->fx);
}

static bool memory_differs(uint8_t *n, uint8_t *e, const struct user_state *end, const struct loose *loose)
{
	uint64_t at = end->gpr[4] - 8 - CASE_DATA;
	if (loose->below_stack && at <= CASE_DATA_SIZE - 8) {
		memset(n + at, 0, 8);
		memset(e + at, 0, 8);
	}
	if (!memcmp(n, e, CASE_DATA_SIZE))
		return false;
	for (unsigned i = 0, shown = 0; report && i < CASE_DATA_SIZE && shown < 16; i++)
		if (n[i] != e[i]) {
			fprintf(stderr, "  [%llx] processor %02x engine %02x\n", CASE_DATA + i, n[i], e[i]);
			shown++;
		}
	return true;
}

struct outcome {
	struct user_state state;
	uint8_t data[CASE_DATA_SIZE];
	int error;
};

static bool any_stack; /* the kernel here returns to any stack pointer: native_takes_any_stack */

static bool canonical(uint64_t address)
{
	return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

/* 0 equal, 1 different, 2 not comparable (endless). */
static int compare_once(struct ft_machine *m, const struct user_case *c, bool *interrupted)
{
	static struct outcome native, engine;
	*interrupted = false;
	native.error = native_run(c, &native.state, native.data);
	enum ft_exit exit = FT_EXIT_ERROR;
	engine.error = bare_run(m, c, 20000, &engine.state, engine.data, &exit);
	if (native.error == -ETIME)
		return 2;
	if (native.error || engine.error) {
		if (report)
			fprintf(stderr, "  processor: %s, engine: %s (exit %d) %s\n", strerror(-native.error),
				strerror(-engine.error), exit, m->error.text);
		return 1;
	}
	/* The host's own interrupt came where the case had such a stack pointer, and its kernel could not go back: an exception that is none of
	 * the case's (seen: #UD behind POP RSP, once in some 100,000 runs). */
	*interrupted = !any_stack && native.state.vector != engine.state.vector && !canonical(native.state.gpr[4]);
	struct loose loose = loose_end(c, &native.state);
	return states_differ(&native.state, &engine.state, &loose) |
	       memory_differs(native.data, engine.data, &native.state, &loose);
}

static int compare(struct ft_machine *m, const struct user_case *c)
{
	bool interrupted, told = report;
	int result = 1;
	report = false;
	for (unsigned tries = 0; tries < 5; tries++) {
		result = compare_once(m, c, &interrupted);
		if (result != 1 || !interrupted)
			break;
	}
	report = told;
	return result == 1 && report ? compare_once(m, c, &interrupted) : result;
}

static long argument(int argc, char **argv, const char *name, long otherwise)
{
	for (int i = 1; i + 1 < argc; i++)
		if (!strcmp(argv[i], name))
			return atol(argv[i + 1]);
	return otherwise;
}

int main(int argc, char **argv)
{
	long cases = argument(argc, argv, "--cases", 100000), seed = argument(argc, argv, "--seed", 1);
	long only = argument(argc, argv, "--only", -1), most = argument(argc, argv, "--most", 6);
	long times = argument(argc, argv, "--times", 1); /* each case: for what comes and goes */
	struct ft_machine *m[SETTINGS];
	struct ft_error err = {0};
	for (unsigned i = 0; i < SETTINGS; i++) {
		m[i] = bare_open(&settings[i], &err);
		if (!m[i]) {
			fprintf(stderr, "%s\n", err.text);
			return 1;
		}
	}
	/* After the engine, whose handlers are for its own faults. */
	int error = native_open();
	if (error) {
		fprintf(stderr, "cannot prepare native execution: %s\n", strerror(-error));
		return 1;
	}
	any_stack = native_takes_any_stack();
	if (!any_stack)
		printf("the kernel here returns to no stack pointer that is not canonical: cases begin with canonical ones\n");
	static struct user_case c;
	struct generate g;
	long failed = 0, endless = 0;
	for (long n = 0; n < cases; n++) {
		/* Each case from its own seed, so that any of them can be run alone; the data carries over on purpose
		 * only within one case. */
		generate_open(&g, (uint64_t)(seed * 1000003 + n));
		memset(c.data, 0, 2);
		unsigned length = generate_case(&g, &c, n % 4 ? 1 : (unsigned)most);
		if (only >= 0 && n != only)
			continue;
		if (!any_stack)
			c.start.gpr[4] = (uint64_t)((int64_t)(c.start.gpr[4] << 16) >> 16);
		report = only >= 0;
		int result = 0;
		for (long k = 0; k < times && result != 1; k++)
			result = compare(m[n % SETTINGS], &c);
		endless += result == 2;
		if (result != 1)
			continue;
		failed++;
		if (failed <= 20) {
			fprintf(stderr, "case %ld (setting %ld):\n", n, (long)(n % (long)SETTINGS));
			generate_show(&g, &c, length);
			report = true;
			compare(m[n % SETTINGS], &c);
		}
	}
	printf("%ld cases, %ld different, %ld endless on the processor too\n", only >= 0 ? 1 : cases, failed, endless);
	for (unsigned i = 0; i < SETTINGS; i++)
		bare_close(m[i]);
	return failed ? 1 : 0;
}
