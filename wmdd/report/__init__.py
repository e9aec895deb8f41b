"""What people see of a finished run: scores, tables, pictures, the page."""
