"""What an unattended rebuild has to do, and what it did. Free of Dagster: reads storage and upstream."""
