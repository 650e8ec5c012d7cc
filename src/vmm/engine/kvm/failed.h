/* An ioctl of KVM's that failed. */
#ifndef FT_VMM_ENGINE_KVM_FAILED_H
#define FT_VMM_ENGINE_KVM_FAILED_H

#include "base/error.h"

/* errno as an error that names what it was; -errno. */
int ft_kvm_failed(struct ft_error *err, const char *what);

#endif
