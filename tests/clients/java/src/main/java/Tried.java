// SPDX-License-Identifier: Apache-2.0

/** What was tried with a client, a line each, and how much of it failed. */
final class Tried {
    interface Body {
        void run() throws Exception;
    }

    private int failed;

    void check(String what, Body body) {
        long began = System.nanoTime();
        try {
            body.run();
            System.out.printf("ok      %s (%.2f s)%n", what, (System.nanoTime() - began) / 1e9);
        } catch (Exception | AssertionError error) {
            failed++;
            error.printStackTrace();
            System.out.printf("failed  %s: %.200s%n", what, error);
        }
    }

    int failed() {
        return failed;
    }

    /** Ends the program. */
    void exit() {
        System.exit(failed == 0 ? 0 : 1);
    }
}
