/* SPDX-License-Identifier: Apache-2.0 */
/* The command line client. */
#include <stdio.h>

int main(void)
{
    fputs("polylog: not there yet\n", stderr);
    return 1;
}
