"""What SAM wants of the C library's heap on CPU."""

# glibc hands every freed block of more than 32 MB back to the kernel and faults it in again; SAM's decoder makes such
# blocks all the time. Keeping the heap more than doubles its speed on CPU. Read only when a process starts.
KEEP_HEAP_ENV = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "1000000000",
}
