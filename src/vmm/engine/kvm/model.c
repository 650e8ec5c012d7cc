/* Which CPU model a guest on KVM has: that of the host (host.c), or what it began with. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/engine/kvm/host.h"
#include "vmm/engine/kvm/kvm.h"

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
	int error = ft_kvm_host_model(engine->kvm, &engine->host, err);
	if (error)
		return error;
	/* A fork goes on with what its guest has; so does a machine that was made for a certain model. One with the host's own processor
	 * goes nowhere else. */
	if (m->model.vendor[0])
		return engine->native ? 0 : ft_kvm_model_fits(&engine->host, &m->model, m->model_note, sizeof(m->model_note), err);
	m->model = engine->host.vendor[0] ? engine->host : FT_MODEL_SOFTWARE;
	if (!engine->host.vendor[0] && !engine->native)
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
