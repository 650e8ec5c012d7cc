/* Which CPU model a guest on KVM has: that of the host, as far as its KVM lends it to guests. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/engine/kvm/host.h"
#include "vmm/engine/kvm/kvm.h"

#define HOST_LEAVES           256u
#define MSR_ARCH_CAPABILITIES 0x10au

/* ---- The host's ---------------------------------------------------------------------------------------------------- */

/* 0 where there is none: a kernel from before it told (4.17), a processor from before there was one. */
static int arch_capabilities(int kvm, uint64_t *value, struct ft_error *err)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry[1];
	} one = {.header.nmsrs = 1, .entry[0].index = MSR_ARCH_CAPABILITIES};
	*value = 0;
	if (ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_GET_MSR_FEATURES) <= 0)
		return 0;
	int n = ioctl(kvm, KVM_GET_MSRS, &one);
	if (n < 0)
		return ft_kvm_failed(err, "KVM_GET_MSRS of ARCH_CAPABILITIES");
	if (n)
		*value = one.entry[0].data;
	return 0;
}

void ft_kvm_model_read(const struct kvm_cpuid2 *host, struct ft_model *model)
{
	*model = (struct ft_model){0};
	for (uint32_t i = 0; i < host->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &host->entries[i];
		if (e->function == 0) {
			model->vendor[0] = e->ebx;
			model->vendor[1] = e->ecx;
			model->vendor[2] = e->edx;
		} else if (e->function == 1) {
			model->signature = e->eax;
		} else if (e->function == 7 && e->index == 0) {
			model->leaf7_edx = e->edx;
		} else if (e->function == 7 && e->index == 2) {
			model->leaf7_2_edx = e->edx;
		} else if (e->function == 0x80000008) {
			model->ext8_ebx = e->ebx;
		} else if (e->function == 0x80000021) {
			model->ext21_eax = e->eax;
			model->ext21_ecx = e->ecx;
		}
	}
}

int ft_kvm_model_of_host(int kvm, struct ft_model *model, struct ft_error *err)
{
	struct kvm_cpuid2 *host = calloc(1, sizeof(*host) + HOST_LEAVES * sizeof(host->entries[0]));
	if (!host)
		return ft_error_set(err, -ENOMEM, "no memory for the engine");
	host->nent = HOST_LEAVES;
	int error = ioctl(kvm, KVM_GET_SUPPORTED_CPUID, host) ? ft_kvm_failed(err, "KVM_GET_SUPPORTED_CPUID") : 0;
	if (!error)
		ft_kvm_model_read(host, model);
	if (!error)
		error = arch_capabilities(kvm, &model->arch_capabilities, err);
	if (!error && !ft_model_known(model))
		*model = (struct ft_model){0};
	free(host);
	return error;
}

/* ---- The guest's --------------------------------------------------------------------------------------------------- */

int ft_kvm_model_fits(const struct ft_model *host, const struct ft_model *guest, char *note, size_t size, struct ft_error *err)
{
	*note = 0;
	if (ft_model_same(guest, &FT_MODEL_SOFTWARE)) {
		snprintf(note, size,
			 "the guest began on engine soft: its kernel takes its processor for one that does not speculate, and does not "
			 "protect itself from its own programs");
		return 0;
	}
	const char *missing = ft_model_misses(guest, host);
	if (missing)
		return ft_error_set(err, -ENOTSUP, "kvm: this host's processor does not have what the guest's kernel relies on: %s", missing);
	if (guest->signature != host->signature)
		snprintf(note, size,
			 "the guest began on another processor of this vendor (CPUID signature %08x, here %08x): its kernel protects itself "
			 "from what that one was known for",
			 guest->signature, host->signature);
	return 0;
}

int ft_kvm_model_open(struct ft_engine *engine, struct ft_error *err)
{
	struct ft_machine *m = engine->m;
	if (engine->native)
		return 0;
	int error = ft_kvm_model_of_host(engine->kvm, &engine->host, err);
	/* A fork goes on with what its guest has; so does a machine that was made for a certain model. */
	if (error || m->model.vendor[0])
		return error ? error : ft_kvm_model_fits(&engine->host, &m->model, m->model_note, sizeof(m->model_note), err);
	m->model = engine->host.vendor[0] ? engine->host : FT_MODEL_SOFTWARE;
	if (!engine->host.vendor[0])
		snprintf(m->model_note, sizeof(m->model_note),
			 "this host's processor is of a vendor that is not known: the guest's kernel takes its own for one that does not "
			 "speculate, and does not protect itself from its own programs");
	return 0;
}

int ft_kvm_become(struct ft_engine *engine, const struct ft_model *model, uint64_t tsc_khz, struct ft_error *err)
{
	struct ft_machine *m = engine->m;
	struct ft_model before = m->model;
	uint64_t khz = m->clock.tsc_khz;
	char note[sizeof(m->model_note)];
	int error = ft_kvm_model_fits(&engine->host, model, note, sizeof(note), err);
	if (error)
		return error;
	m->model = *model;
	m->clock.tsc_khz = tsc_khz;
	error = ft_kvm_vcpus_become(engine, err);
	if (!error)
		error = ft_kvm_filter(engine, err);
	if (error) {
		m->model = before;
		m->clock.tsc_khz = khz;
		return error;
	}
	memcpy(m->model_note, note, sizeof(note));
	return 0;
}
