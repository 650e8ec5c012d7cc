/* What a guest with the host's own processor (`portable: false`) is told of it, and where such a machine does not go. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "vmm/engine/kvm/native.h"
#include "vmm/machine.h"
#include "vmm/state/image.h"

#define TSC_KHZ 2600000u
#define INDEXED KVM_CPUID_FLAG_SIGNIFCANT_INDEX

struct leaves {
	struct kvm_cpuid2 header;
	struct kvm_cpuid_entry2 entries[FT_KVM_NATIVE_LEAVES];
};

/* A host that has everything: each bit of each leaf up to these is set, and XSAVE has components that nobody knows. */
static void make_host(struct leaves *host)
{
	memset(host, 0, sizeof(*host));
#define ADD(...) host->entries[host->header.nent++] = (struct kvm_cpuid_entry2){__VA_ARGS__}
	for (uint32_t leaf = 1; leaf <= 0x30; leaf++)
		if (leaf != 4 && leaf != 7 && leaf != 0xb && leaf != 0xd)
			ADD(leaf, 0, 0, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX);
	ADD(0, 0, 0, 0x30, 0x68747541, 0x444d4163, 0x69746e65);
	for (uint32_t sub = 0; sub < 3; sub++) {
		ADD(4, sub, INDEXED, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX);
		ADD(7, sub, INDEXED, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX);
		ADD(0xb, sub, INDEXED, 5, 64, sub | (sub + 1) << 8, 63);
	}
	ADD(0xd, 0, INDEXED, UINT32_MAX, 11008, 11008, UINT32_MAX);
	ADD(0xd, 1, INDEXED, UINT32_MAX, 11008, UINT32_MAX, UINT32_MAX);
	ADD(0xd, 2, INDEXED, 256, 576, 0, 0);
	ADD(0xd, 5, INDEXED, 64, 1088, 0, 0);
	ADD(0xd, 6, INDEXED, 512, 1152, 0, 0);
	ADD(0xd, 7, INDEXED, 1024, 1664, 0, 0);
	ADD(0xd, 9, INDEXED, 8, 2688, 0, 0);
	ADD(0xd, 11, INDEXED, 16, 0, 1, 0);
	ADD(0xd, 17, INDEXED, 64, 2752, 2, 0);
	ADD(0xd, 18, INDEXED, 8192, 2816, 6, 0);
	ADD(0x40000000, 0, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
	ADD(0x40000001, 0, 0, UINT32_MAX, 0, 0, 0);
	for (uint32_t leaf = 0x80000001; leaf <= 0x80000030; leaf++)
		ADD(leaf, 0, 0, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX);
	ADD(0x80000000, 0, 0, 0x80000030, 0x68747541, 0x444d4163, 0x69746e65);
#undef ADD
}

static const struct kvm_cpuid_entry2 *find(const struct leaves *list, uint32_t leaf, uint32_t sub)
{
	const struct kvm_cpuid_entry2 *found = NULL;
	for (uint32_t i = 0; i < list->header.nent; i++)
		if (list->entries[i].function == leaf && list->entries[i].index == sub) {
			assert_null(found); /* none is there twice */
			found = &list->entries[i];
		}
	return found;
}

static const struct kvm_cpuid_entry2 *leaf(const struct leaves *list, uint32_t number, uint32_t sub)
{
	const struct kvm_cpuid_entry2 *found = find(list, number, sub);
	if (!found)
		fail_msg("leaf 0x%x.%u is not there", number, sub);
	return found;
}

static void compose(const struct leaves *host, unsigned vcpu, unsigned vcpus, struct leaves *guest)
{
	struct ft_error err = {0};
	memset(guest, 0xaa, sizeof(*guest));
	if (ft_kvm_native_model(&host->header, (struct ft_model_place){vcpu, vcpus}, TSC_KHZ, &guest->header, &err))
		fail_msg("%s", err.text);
}

static bool bit(uint32_t value, unsigned n)
{
	return value >> n & 1;
}

static void instructions_are_the_host_s(void **state)
{
	static struct leaves host, guest;
	make_host(&host);
	compose(&host, 0, 1, &guest);
	assert_int_equal(leaf(&guest, 0, 0)->ebx, 0x68747541);
	assert_int_equal(leaf(&guest, 1, 0)->eax, UINT32_MAX);
	static const unsigned basic[] = {0, 1, 9, 12 /* FMA */, 13, 17 /* PCID */, 19, 20, 22, 23, 25 /* AES */, 26 /* XSAVE */, 28 /* AVX */, 29, 30};
	for (unsigned i = 0; i < sizeof(basic) / sizeof(*basic); i++)
		assert_true(bit(leaf(&guest, 1, 0)->ecx, basic[i]));
	static const unsigned features[] = {0, 3, 5 /* AVX2 */, 7, 8, 16 /* AVX-512F */, 20 /* SMAP */, 29 /* SHA */};
	for (unsigned i = 0; i < sizeof(features) / sizeof(*features); i++)
		assert_true(bit(leaf(&guest, 7, 0)->ebx, features[i]));
	assert_true(bit(leaf(&guest, 7, 0)->edx, 26)); /* SPEC_CTRL: its kernel can defend itself */
	assert_true(bit(leaf(&guest, 7, 0)->edx, 29)); /* and knows what it need not */
	assert_int_equal(leaf(&guest, 0x80000002, 0)->eax, UINT32_MAX);
	assert_true(bit(leaf(&guest, 0x80000008, 0)->ebx, 12)); /* IBPB */
}

static void the_platform_is_not(void **state)
{
	static struct leaves host, guest;
	static const unsigned ecx[] = {2, 3, 4, 5, 6, 7, 8, 14, 15, 18, 21, 27}, edx[] = {7, 12, 14, 21, 22, 28, 29};
	static const unsigned extended[] = {2, 3, 10, 12, 13, 22, 23, 24, 28, 29};
	static const uint32_t empty[] = {3, 5, 9, 0xa, 0xb, 0xc, 0xf, 0x10, 0x12, 0x14, 0x17, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x20, 0x23, 0x25,
					 0x30, 0x40000001, 0x8000000a, 0x8000001b, 0x8000001d, 0x8000001e, 0x8000001f, 0x80000020, 0x80000022, 0x80000026};
	make_host(&host);
	compose(&host, 0, 1, &guest);
	for (unsigned i = 0; i < sizeof(ecx) / sizeof(*ecx); i++)
		assert_false(bit(leaf(&guest, 1, 0)->ecx, ecx[i]));
	for (unsigned i = 0; i < sizeof(edx) / sizeof(*edx); i++)
		assert_false(bit(leaf(&guest, 1, 0)->edx, edx[i]));
	for (unsigned i = 0; i < sizeof(extended) / sizeof(*extended); i++)
		assert_false(bit(leaf(&guest, 0x80000001, 0)->ecx, extended[i]));
	for (unsigned i = 0; i < sizeof(empty) / sizeof(*empty); i++)
		assert_null(find(&guest, empty[i], 0));
	assert_true(bit(leaf(&guest, 1, 0)->ecx, 31) && bit(leaf(&guest, 1, 0)->ecx, 24));
	assert_int_equal(leaf(&guest, 6, 0)->eax, 4);
	assert_int_equal(leaf(&guest, 0x80000007, 0)->edx, 1u << 8);
	assert_int_equal(leaf(&guest, 0x80000000, 0)->eax, 0x80000021);
	assert_int_equal(leaf(&guest, 0x40000000, 0)->eax, 0x40000000);
	assert_int_equal(leaf(&guest, 0x40000000, 0)->ebx, 0x65726f46);
	/* Features whose state no clone would get. */
	assert_false(bit(leaf(&guest, 7, 0)->ecx, 7) || bit(leaf(&guest, 7, 0)->ecx, 16) || bit(leaf(&guest, 7, 0)->ecx, 23));
	assert_false(bit(leaf(&guest, 7, 0)->edx, 20) || bit(leaf(&guest, 7, 0)->edx, 24));
	assert_false(bit(leaf(&guest, 7, 1)->eax, 17) || bit(leaf(&guest, 7, 1)->edx, 21));
}

static void what_xsave_saves_is_what_we_carry(void **state)
{
	static struct leaves host, guest;
	struct ft_error err = {0};
	make_host(&host);
	compose(&host, 0, 1, &guest);
	assert_int_equal(leaf(&guest, 0xd, 0)->eax, 0x2ff);
	assert_int_equal(leaf(&guest, 0xd, 0)->edx, 0);
	assert_int_equal(leaf(&guest, 0xd, 0)->ecx, 2696);
	assert_int_equal(leaf(&guest, 0xd, 1)->eax, 0xf);
	assert_int_equal(leaf(&guest, 0xd, 1)->ecx, 0);
	assert_non_null(find(&guest, 0xd, 7));
	assert_null(find(&guest, 0xd, 11));
	assert_null(find(&guest, 0xd, 17));
	assert_null(find(&guest, 0xd, 18));
	for (uint32_t i = 0; i < host.header.nent; i++)
		if (host.entries[i].function == 0xd && host.entries[i].index == 9)
			host.entries[i].ebx = 4090;
	assert_int_equal(ft_kvm_native_model(&host.header, (struct ft_model_place){0, 1}, TSC_KHZ, &guest.header, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "4096 bytes"));
}

static void processors_are_told_apart(void **state)
{
	static struct leaves host, guest;
	make_host(&host);
	for (unsigned vcpus = 1; vcpus <= 5; vcpus++) {
		unsigned bits = vcpus > 4 ? 3 : vcpus > 2 ? 2 : vcpus > 1;
		for (unsigned vcpu = 0; vcpu < vcpus; vcpu++) {
			compose(&host, vcpu, vcpus, &guest);
			assert_int_equal(leaf(&guest, 1, 0)->ebx, vcpu << 24 | 1u << bits << 16 | 0xff00);
			assert_int_equal(bit(leaf(&guest, 1, 0)->edx, 28), vcpus > 1);
			assert_int_equal(bit(leaf(&guest, 0x80000001, 0)->ecx, 1), vcpus > 1);
			assert_int_equal(leaf(&guest, 0x80000008, 0)->ecx, vcpus > 1 ? bits << 12 | (vcpus - 1) : 0);
			assert_int_equal(leaf(&guest, 4, 0)->eax >> 14, ((1u << bits) - 1) << 12);
			if (vcpus == 1)
				continue;
			assert_int_equal(leaf(&guest, 0xb, 0)->edx, vcpu);
			assert_int_equal(leaf(&guest, 0xb, 1)->edx, vcpu);
			assert_int_equal(leaf(&guest, 0xb, 1)->ebx, vcpus);
		}
	}
}

/* An old one: no XSAVE, and its leaves end before those that say the frequency. */
static void a_small_host_has_the_clock_too(void **state)
{
	static struct leaves host, guest;
	struct ft_error err = {0};
	uint32_t model[4];
	memset(&host, 0, sizeof(host));
	assert_int_equal(ft_kvm_native_model(&host.header, (struct ft_model_place){0, 1}, TSC_KHZ, &guest.header, &err), -ENOTSUP);
	host.header.nent = 2;
	host.entries[0] = (struct kvm_cpuid_entry2){.eax = 0xb, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69};
	host.entries[1] = (struct kvm_cpuid_entry2){.function = 1, .eax = 0x306a9, .ecx = 1, .edx = 1};
	compose(&host, 0, 1, &guest);
	ft_model_cpuid(&FT_MODEL_SOFTWARE, (struct ft_model_place){0, 1}, TSC_KHZ, 0x15, 0, model);
	assert_int_equal(leaf(&guest, 0, 0)->eax, 0x16);
	assert_int_equal(leaf(&guest, 0x15, 0)->eax, model[0]);
	assert_int_equal(leaf(&guest, 0x15, 0)->ebx, model[1]);
	assert_int_equal(leaf(&guest, 0x15, 0)->ecx, model[2]);
	assert_int_equal(leaf(&guest, 0x16, 0)->eax, TSC_KHZ / 1000);
	assert_null(find(&guest, 0xd, 0));
}

static void it_goes_nowhere_else(void **state)
{
	struct ft_machine_config config = {.memory = FT_RAM_MIN, .disk_fd = -1, .engine = &ft_engine_soft, .engine_options.native = true};
	struct ft_engine_options portable = {0};
	struct ft_error err = {0};
	uint8_t *bytes;
	size_t length;
	assert_null(ft_machine_create(&config, &err));
	assert_int_equal(err.code, -EINVAL);
	assert_non_null(strstr(err.text, "only engine kvm"));
	err = (struct ft_error){0};
	config.engine_options.native = false;
	struct ft_machine *m = ft_machine_create(&config, &err);
	assert_non_null(m);
	m->native = true;
	assert_int_equal(ft_machine_stand_by(m, &ft_engine_kvm, &portable, &err), -EINVAL);
	err = (struct ft_error){0};
	assert_int_equal(ft_state_restore(m, "", 0, &err), -ENOTSUP);
	err = (struct ft_error){0};
	assert_int_equal(ft_state_save(m, &bytes, &length, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "this host's own processor (portable: false)"));
	ft_machine_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(instructions_are_the_host_s),
	    cmocka_unit_test(the_platform_is_not),
	    cmocka_unit_test(what_xsave_saves_is_what_we_carry),
	    cmocka_unit_test(processors_are_told_apart),
	    cmocka_unit_test(a_small_host_has_the_clock_too),
	    cmocka_unit_test(it_goes_nowhere_else),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
