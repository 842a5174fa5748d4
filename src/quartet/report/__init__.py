"""What people look at: tables, pictures and the page of a sweep."""
