/* PCI bus 0 behind configuration mechanism 1 (ports 0xcf8, 0xcfc; PCI 3.0 section 3.2.2.3): a host bridge at slot 0 and
 * functions with memory BARs, INTx and MSI-X. */
#ifndef FT_VMM_DEV_PCI_H
#define FT_VMM_DEV_PCI_H

#include "vmm/machine.h"

#define FT_PCI_SLOTS        8u
#define FT_PCI_BARS         2u
#define FT_PCI_MSIX_VECTORS 4u
#define FT_PCI_GSI_BASE     16u         /* INTA of slot n is GSI 16 + n */
#define FT_PCI_WINDOW       0xe0000000u /* where BARs are placed, and what the ACPI tables say the bridge decodes */
#define FT_PCI_WINDOW_END   0xfebfffffu

struct ft_pci;

struct ft_pci_state {
	uint8_t config[256];
	uint32_t msix[FT_PCI_MSIX_VECTORS][4]; /* address, address high, data, control */
	uint32_t msix_pending;
	uint32_t line; /* INTx as the device drives it */
};

struct ft_pci_function {
	struct ft_pci *pci;
	unsigned slot;
	uint8_t writable[256];                    /* bits of the configuration that software can change */
	unsigned capability_end, capability_last; /* while being built */
	unsigned msix_capability;                 /* 0: none */
	struct ft_region bar[FT_PCI_BARS];        /* length 0: none */
	void (*mastered)(struct ft_pci_function *function); /* may access memory from now on; NULL: does not care */
	struct ft_pci_state s;
};

struct ft_pci_bus_state {
	uint32_t address;
	uint32_t reserved;
};

struct ft_pci {
	struct ft_machine *m;
	struct ft_region ports;
	struct ft_pci_function bridge;
	struct ft_pci_function *functions[FT_PCI_SLOTS];
	struct ft_pci_bus_state s;
};

int ft_pci_create(struct ft_pci *pci, struct ft_machine *m, struct ft_error *err);

/* Puts a function into the next free slot. class: 24 bits. BARs and capabilities follow, before the guest runs. */
int ft_pci_add(struct ft_pci *pci, struct ft_pci_function *function, uint16_t vendor, uint16_t device,
	       uint32_t class, uint16_t subsystem, struct ft_error *err);
/* Memory BAR n of `length` bytes (a power of two of at least 4096), answered by region's functions; placed in the
 * window. */
int ft_pci_add_bar(struct ft_pci_function *function, unsigned n, const struct ft_region *region,
		   struct ft_error *err);
/* Appends a capability; body without its two header bytes. Returns its place in the configuration space. */
unsigned ft_pci_add_capability(struct ft_pci_function *function, uint8_t id, const void *body,
			       unsigned length);
/* MSI-X with its table in BAR n. */
int ft_pci_add_msix(struct ft_pci_function *function, unsigned n, unsigned vectors, struct ft_error *err);

/* The function may access memory (PCI 3.0 section 6.2.2, bus master). */
bool ft_pci_master(const struct ft_pci_function *function);
bool ft_pci_msix_enabled(const struct ft_pci_function *function);
void ft_pci_msix_send(struct ft_pci_function *function, unsigned vector);
void ft_pci_interrupt(struct ft_pci_function *function, bool level); /* INTA */

/* Whether this function can come to that configuration space and line; *at: the first byte that it cannot. */
bool ft_pci_possible(const struct ft_pci_function *function, const struct ft_pci_state *state, unsigned *at);
/* Its state was replaced: BARs are where they say; interrupt lines are not driven again. */
void ft_pci_restored(struct ft_pci_function *function);

#endif
