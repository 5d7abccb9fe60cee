"""What an unattended rebuild has to do, and what it did. Free of dagster: reads storage and upstream."""
