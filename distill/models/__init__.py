"""A recipe's models: the teacher and the student, built, loaded, frozen, sized."""
